"""Networks of face vectors: what they are fed, in which batches, and when they are fit to serve."""

from __future__ import annotations

import asyncio
import base64
import math
from pathlib import Path

import msgspec
import numpy as np
import pytest

from face_graphs import write_graph
from phalanx.engines.choice import EngineChoice
from phalanx.engines.face import golden
from phalanx.engines.face.embedder import BATCH, FaceEmbedder
from phalanx.engines.face.load import load_face_embedder
from phalanx.engines.face.spec import FaceSpec
from phalanx.engines.runner import BatchFacts, Runner
from phalanx.errors import InvalidRequest, Unavailable
from phalanx.ports import Finished, Submission

SIDE = 8
F32 = EngineChoice(precision="f32")

SPEC = FaceSpec(
    name="tiny",
    version="0" * 12,
    sha256="0" * 64,
    dimensions=3,
    input_size=SIDE,
    template="arcface",
    metric="cosine",
    threshold=0.4,
    meaning="of the tests",
)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return write_graph(tmp_path / "model.onnx", size=SIDE)


def chip(*levels: int) -> np.ndarray:
    return np.broadcast_to(np.array(levels, dtype=np.uint8), (SIDE, SIDE, 3))


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_a_face_is_fed_as_the_facts_say(graph: Path, engine: str) -> None:
    choice = msgspec.convert({"engine": engine, "precision": "f32"}, EngineChoice)
    for changes, expected in (
        ({}, (10, 20, 250)),
        ({"channels": "bgr"}, (250, 20, 10)),
        ({"offset": 127.5, "scale": 127.5}, (-0.92157, -0.84314, 0.96078)),
    ):
        spec = msgspec.convert({**vars(SPEC), **changes}, FaceSpec)
        model = load_face_embedder(spec, graph, choice)
        [vector] = model.run([model.prepare(chip(10, 20, 250))])
        np.testing.assert_allclose(vector, expected, rtol=1e-4)


@pytest.mark.parametrize("batch", ["batch", 1])
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_vectors_come_in_order_whatever_the_graph_takes_at_once(tmp_path: Path, engine: str, batch: int | str) -> None:
    choice = msgspec.convert({"engine": engine, "precision": "f32"}, EngineChoice)
    model = load_face_embedder(SPEC, write_graph(tmp_path / "model.onnx", size=SIDE, batch=batch), choice)
    assert model.largest_batch == (1 if batch == 1 else BATCH)
    levels = range(2 * BATCH + 3)
    vectors = model.run([model.prepare(chip(level, 0, 0)) for level in levels])
    np.testing.assert_allclose([vector[0] for vector in vectors], list(levels), atol=1e-4)
    assert model.run([]) == []


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((SIDE, SIDE), dtype=np.uint8),
        np.zeros((SIDE, SIDE, 4), dtype=np.uint8),
        np.zeros((SIDE + 1, SIDE, 3), dtype=np.uint8),
        np.zeros((SIDE, SIDE, 3), dtype=np.float32),
        np.zeros((0, 0, 3), dtype=np.uint8),
    ],
    ids=lambda value: f"{value.shape}-{value.dtype}",
)
def test_what_is_no_aligned_face_is_refused(graph: Path, wrong: np.ndarray) -> None:
    model = load_face_embedder(SPEC, graph, F32)
    with pytest.raises(InvalidRequest, match="an aligned face for tiny is RGB of 8 bits, 8 x 8 pixels"):
        model.prepare(wrong)


def test_faces_of_several_requests_share_a_batch(graph: Path) -> None:
    model = load_face_embedder(SPEC, graph, F32)
    batches: list[BatchFacts] = []
    runner = Runner(model, name="tiny", max_items=BATCH, on_batch=batches.append)

    async def ask(level: int) -> float:
        submission = Submission(model.prepare(chip(level, 0, 0)))
        [done] = await runner.submit([submission], tenant=f"t{level}", deadline=math.inf)
        assert isinstance(done, Finished)
        return float(done.value[0])

    async def ask_all() -> list[float]:
        runner.start()
        try:
            return await asyncio.gather(*(ask(level) for level in range(40)))
        finally:
            await runner.stop(1)

    assert asyncio.run(ask_all()) == pytest.approx(range(40), abs=1e-3)
    assert sum(batch.items for batch in batches) == 40
    assert max(batch.items for batch in batches) > 1


def test_faces_are_compared_by_the_networks_own_metric(graph: Path) -> None:
    one, other = np.array([3.0, 0, 0], dtype=np.float32), np.array([0, 4.0, 0], dtype=np.float32)
    cosine = load_face_embedder(SPEC, graph, F32)
    assert (cosine.compare(one, one), cosine.compare(one, other)) == (1, 0)
    assert cosine.compare(one, np.zeros(3, dtype=np.float32)) == 0
    assert cosine.is_same(0.4)
    assert not cosine.is_same(0.39)
    euclidean = load_face_embedder(msgspec.convert({**vars(SPEC), "metric": "euclidean"}, FaceSpec), graph, F32)
    assert euclidean.compare(one, other) == 5
    assert euclidean.is_same(0.4)
    assert not euclidean.is_same(0.41)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"input_size": 16}, r"takes \[\?, 3, 8, 8\]; \[n, 3, 16, 16\] was expected"),
        ({"dimensions": 128}, r"gives \[\?, 3\]; \[n, 128\] was expected"),
    ],
)
def test_a_graph_that_does_not_fit_the_facts_is_refused(graph: Path, changes: dict[str, int], told: str) -> None:
    with pytest.raises(Unavailable, match=told):
        load_face_embedder(msgspec.convert({**vars(SPEC), **changes}, FaceSpec), graph, F32)


def test_a_missing_graph_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="phalanx models pull tiny --force"):
        load_face_embedder(SPEC, tmp_path / "model.onnx", F32)


def test_vectors_that_are_not_finite_fail_the_golden_check(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="the golden check of tiny 000000000000 failed"):
        load_face_embedder(SPEC, write_graph(tmp_path / "model.onnx", size=SIDE, factor=float("nan")), F32)


def test_stored_vectors_decide_where_there_are_some(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = golden.embed_faces(load_face_embedder(SPEC, graph, F32))
    monkeypatch.setattr(golden.stored_golden, "__defaults__", (tmp_path,))

    def store(vectors: np.ndarray, sha256: str = SPEC.sha256) -> None:
        encoded = base64.b64encode(vectors.astype("<f4").tobytes()).decode()
        stored = golden.Golden(model="tiny", sha256=sha256, source="the tests", vectors=encoded)
        (tmp_path / f"{SPEC.sha256[:12]}.json").write_bytes(msgspec.json.encode(stored))

    store(right)
    load_face_embedder(SPEC, graph, F32)
    store(right * 1.001)
    with pytest.raises(Unavailable, match=r"0\.0010\d from what it should be"):
        load_face_embedder(SPEC, graph, F32)
    store(right * 1.001, sha256="1" * 64)  # another network's, of a like name
    load_face_embedder(SPEC, graph, F32)
    store(right[:, :2])
    with pytest.raises(Unavailable, match="its golden vectors have others"):
        load_face_embedder(SPEC, graph, F32)
    (tmp_path / f"{SPEC.sha256[:12]}.json").write_bytes(b"{")
    with pytest.raises(Unavailable, match="cannot be read as stored vectors"):
        load_face_embedder(SPEC, graph, F32)


def test_what_fails_in_bf16_is_loaded_in_f32(
    graph: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(golden.MAX_DEVIATION, "bf16", -1.0)
    model: FaceEmbedder = load_face_embedder(SPEC, graph)
    assert model.backend.precision == "f32"
    if EngineChoice().first_precision() == "bf16":
        assert "using f32" in caplog.text
        with pytest.raises(Unavailable, match="golden check"):
            load_face_embedder(SPEC, graph, EngineChoice(precision="bf16"))


def test_all_that_decides_a_vector_is_in_the_fingerprint(graph: Path) -> None:
    model = load_face_embedder(SPEC, graph, F32)
    assert model.spec.arithmetic == "openvino cpu f32"
    prints = {SPEC.fingerprint, model.spec.fingerprint}
    for change in ({"sha256": "1"}, {"template": "dlib"}, {"scale": 2.0}, {"channels": "bgr"}, {"version": "1"}):
        prints.add(msgspec.convert({**vars(SPEC), **change}, FaceSpec).fingerprint)
    assert len(prints) == 7
    assert msgspec.convert({**vars(SPEC), "threshold": 0.9}, FaceSpec).fingerprint == SPEC.fingerprint
