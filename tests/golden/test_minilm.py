"""all-MiniLM-L6-v2 against sentence-transformers: 120 texts with its token counts and its float32 unit vectors."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phalanx.engines.backends import runs_bf16
from phalanx.engines.choice import EngineChoice
from phalanx.engines.text.load import TextFiles, load_text_model
from phalanx.engines.text.model import TextModel
from phalanx.engines.text.spec import TextSpec
from phalanx.engines.text.vectors import unit

DATA = Path(__file__).parent / "data"
ROWS: list[dict[str, Any]] = [json.loads(line) for line in (DATA / "minilm_texts.jsonl").read_text().splitlines()]
TEXTS: list[str] = [row["text"] for row in ROWS]
REFERENCE = np.load(DATA / "minilm_texts.npy")

CHOICES = {
    "openvino-bf16": EngineChoice(engine="openvino", precision="bf16"),
    "openvino-f32": EngineChoice(engine="openvino", precision="f32"),
    "onnxruntime-f32": EngineChoice(engine="onnxruntime", device="cpu", precision="f32"),
}
SAME = {"bf16": 0.99998, "f32": 0.999999}


@pytest.fixture(scope="module", params=sorted(CHOICES))
def model(request: pytest.FixtureRequest, minilm: Path) -> TextModel:
    choice = CHOICES[request.param]
    if choice.precision == "bf16" and not runs_bf16("openvino", "cpu"):
        pytest.skip("this processor has no bfloat16 in hardware")
    with (minilm / "model.safetensors").open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    spec = TextSpec(
        name="all-MiniLM-L6-v2", version=minilm.name, sha256=sha256, dimensions=384, max_tokens=256, positions=512
    )
    return load_text_model(spec, TextFiles.of_version(minilm), choice)


def cosines(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    products: np.ndarray[Any, Any] = unit(left).astype(np.float64) * unit(right).astype(np.float64)
    return np.asarray(products.sum(axis=1))


def test_token_counts_are_the_references(model: TextModel) -> None:
    assert [model.prepare(text).used_tokens for text in TEXTS] == [row["tokens"] for row in ROWS]


def test_every_text_alone_comes_out_as_the_reference(model: TextModel) -> None:
    found = np.stack([model.run([model.prepare(text)])[0] for text in TEXTS])
    near = cosines(found, REFERENCE)
    worst = int(near.argmin())
    assert near[worst] >= 0.9999, TEXTS[worst]


def test_a_batch_of_mixed_lengths_changes_no_vector(model: TextModel) -> None:
    prepared = [model.prepare(text) for text in TEXTS]
    alone = np.stack([model.run([item])[0] for item in prepared])
    order = np.random.default_rng(5).permutation(len(prepared))
    for start in range(0, len(order), 64):
        some = order[start : start + 64]
        together = np.stack(model.run([prepared[i] for i in some]))
        near = cosines(alone[some], together)
        assert near.min() >= SAME[model.backend.precision], TEXTS[some[int(near.argmin())]]
        assert cosines(together, REFERENCE[some]).min() >= 0.9999


def test_a_megabyte_costs_little_more_than_what_is_kept(model: TextModel) -> None:
    whole = "The quick brown fox jumps over the lazy dog, and goes on running. " * 16_000
    expected = model.prepare(whole[:4_000])
    start = time.perf_counter()
    prepared = model.prepare(whole)
    elapsed = time.perf_counter() - start
    np.testing.assert_array_equal(prepared.ids, expected.ids)
    assert prepared.truncated
    # Tokenised whole it takes 400 ms or more; a machine that is busy gets some room.
    assert elapsed < 0.05


@pytest.mark.parametrize("kept", ["end", "start"])
def test_a_cut_text_gives_the_vector_of_its_kept_part(model: TextModel, kept: Any) -> None:
    long = " ".join(f"word number {n} of a rather long text" for n in range(2_000))
    tokens = model.tokenize(long, add_special_tokens=False)
    part = tokens[:254] if kept == "end" else tokens[-254:]
    assert part[0].start is not None
    assert part[-1].stop is not None
    (cut,) = model.run([model.prepare(long, truncate=kept)])
    (short,) = model.run([model.prepare(long[part[0].start : part[-1].stop])])
    np.testing.assert_allclose(cut, short, atol=1e-5)
