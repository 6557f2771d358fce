"""FALLBACK=simulated: answers of the right form for models that are not there, and never without saying so."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest

from phalanx.contract.usage import UsageEvent
from phalanx.operations import table
from phalanx.settings import SettingsError, load
from pictures import astronaut

PHOTO = base64.b64encode(cv2.imencode(".png", astronaut()[:, :, ::-1])[1].tobytes()).decode()
OTHER = base64.b64encode(cv2.imencode(".png", astronaut()[::-1, :, ::-1])[1].tobytes()).decode()


@pytest.fixture(scope="module")
def empty(start_worker: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A worker without any model."""
    return start_worker(MODEL_DIR=str(tmp_path_factory.mktemp("nothing")), FALLBACK="simulated")


CALLS: dict[str, dict[str, Any]] = {
    "/v1/text/embed": {"texts": ["Hello world", "two"]},
    "/v1/text/embed-tokens": {"texts": ["Hello world"]},
    "/v1/text/tokenize": {"texts": ["Hello world"]},
    "/v1/text/similarity": {"source": "a cat", "texts": ["a cat", "a lorry"]},
    "/v1/faces/detect": {"image": PHOTO},
    "/v1/faces/embed": {"image": PHOTO},
    "/v1/faces/compare": {"images": [PHOTO, PHOTO]},
    "/v1/images/process": {"image": PHOTO, "operations": [{"align": {"template": "arcface"}}]},
}


@pytest.mark.parametrize("path", CALLS)
def test_every_answer_says_that_it_is_simulated(empty: Any, path: str) -> None:
    for _ in range(2):
        answer = empty.post(path, CALLS[path])
        assert (answer.status, answer.json["simulated"]) == (200, True), answer.body
        assert answer.headers["x-simulated"] == "true"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embed", {"text": "Hello"}),
        ("/v1/embeddings", {"input": "Hello", "model": "all-MiniLM-L6-v2"}),
        ("/embed", {"inputs": "Hello"}),
        ("/api/embed", {"input": "Hello", "model": "all-MiniLM-L6-v2"}),
        ("/api/detect-face", {"image": PHOTO}),
        ("/api/extract-embedding", {"image": PHOTO}),
    ],
)
def test_dialects_say_so_by_header(empty: Any, path: str, body: dict[str, Any]) -> None:
    answer = empty.post(path, body)
    assert (answer.status, answer.headers["x-simulated"]) == (200, "true"), answer.body
    assert answer.headers["x-model-version"] == "simulated"


def test_a_stream_says_so_in_each_message(empty: Any) -> None:
    lines = b'{"texts":["one"]}\n{"texts":["two"]}\n'
    answer = empty.request(
        "POST", "/v1/text/embed-stream", body=lines, headers={"content-type": "application/x-ndjson"}
    )
    assert answer.headers["x-simulated"] == "true"
    assert [msgspec.json.decode(line)["simulated"] for line in answer.body.splitlines()] == [True, True]


def test_an_answer_that_is_repeated_still_says_so(empty: Any) -> None:
    headers = {"idempotency-key": "once"}
    first, again = (empty.post("/v1/text/embed", CALLS["/v1/text/embed"], headers=headers) for _ in range(2))
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["x-simulated"] == "true"
    assert again.json == first.json


def test_real_answers_do_not_say_so(worker: Any) -> None:
    for path in ("/v1/text/embed", "/v1/text/similarity", "/v1/faces/detect", "/v1/faces/compare"):
        answer = worker.post(path, CALLS[path])
        assert answer.status == 200
        assert "x-simulated" not in answer.headers
        assert "simulated" not in answer.json


def test_texts_have_unit_vectors_that_depend_on_them_alone(empty: Any) -> None:
    def embed(*texts: str) -> np.ndarray:
        return np.array(empty.post("/v1/text/embed", {"texts": texts, "normalize": False}).json["embeddings"])

    both, alone = embed("one thing", "another"), embed("another")
    assert both.shape == (2, 384)
    assert np.allclose(np.linalg.norm(both, axis=1), 1, atol=1e-5)
    assert np.array_equal(both[1], alone[0])
    assert abs(both[0] @ both[1]) < 0.3
    shorter = empty.post("/v1/text/embed", {"texts": ["one"], "dimensions": 16}).json["embeddings"][0]
    assert len(shorter) == 16


def test_texts_have_limits_and_places(empty: Any) -> None:
    assert empty.post("/v1/text/embed", {"texts": ["word " * 300], "truncate": "none"}).status == 400
    (item,) = empty.post("/v1/text/embed", {"texts": ["word " * 300]}).json["items"]
    assert (item["tokens"], item["used_tokens"], item["truncated"]) == (302, 256, True)
    assert empty.post("/v1/text/embed", {"texts": ["   "]}).status == 400
    (tokens,) = empty.post("/v1/text/tokenize", {"texts": ["Hello, wörld"], "add_special_tokens": False}).json["tokens"]
    assert [token["text"] for token in tokens] == ["Hello", ",", "wörld"]
    assert [(token["start"], token["stop"]) for token in tokens] == [(0, 5), (5, 6), (7, 12)]


def test_pictures_have_one_face_in_the_middle(empty: Any) -> None:
    (face,) = empty.post("/v1/faces/detect", {"image": PHOTO}).json["faces"]
    assert face["bbox"] == {"x": 128.0, "y": 128.0, "width": 256.0, "height": 256.0}
    assert empty.post("/v1/faces/detect", {"image": PHOTO, "min_confidence": 0.95}).json["faces"] == []
    found = empty.post("/v1/faces/embed", {"image": PHOTO}).json
    assert (len(found["embedding"]), found["dimensions"], found["metric"]) == (128, 128, "euclidean")
    assert np.linalg.norm(found["embedding"]) == pytest.approx(1, abs=1e-5)
    assert empty.post("/v1/faces/compare", {"images": [PHOTO, PHOTO]}).json["same"] is True
    assert empty.post("/v1/faces/compare", {"images": [PHOTO, OTHER]}).json["same"] is False


def test_the_worker_is_ready_and_degraded(empty: Any) -> None:
    assert empty.get("/readyz", key=None).status == 200
    health = empty.get("/health", key=None)
    assert (health.status, health.json["status"]) == (200, "degraded")
    assert {model["name"] for model in health.json["models"]} == {
        "all-MiniLM-L6-v2", "blazeface-full-range", "dlib-resnet-v1"
    }  # fmt: skip
    for model in health.json["models"]:
        assert (model["ready"], model["simulated"]) == (False, True)
        assert "run: phalanx models pull" in model["error"]
    for model in empty.get("/v1/models").json["data"]:
        assert (model["ready"], model["simulated"], model["version"]) == (False, True, "simulated")


def test_usage_says_so(empty: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The event is marked, and billed as any other."""
    events: list[UsageEvent] = []
    ledger = empty.app.usage

    async def record(batch: Any) -> int:
        events.extend(batch)
        return len(batch)

    monkeypatch.setattr(ledger, "record", record)
    empty.post("/v1/text/embed", {"texts": ["Hello world"]})
    empty.post("/v1/faces/embed", {"image": OTHER})
    empty.get("/v1/models")
    assert [(event.operation, event.simulated, event.billed) for event in events] == [
        ("text.embed", True, True), ("faces.embed", True, True), ("models.list", False, False)
    ]  # fmt: skip


def test_collections_are_never_pinned_to_a_stand_in(empty: Any) -> None:
    answer = empty.request("PUT", "/v1/collections/notes", json_body={"kind": "texts"})
    assert (answer.status, answer.json["code"]) == (503, "unavailable")


def test_without_it_the_worker_names_the_command(start_worker: Callable[..., Any], tmp_path: Path) -> None:
    worker = start_worker(MODEL_DIR=str(tmp_path))
    for probe in ("/readyz", "/health"):
        assert worker.get(probe, key=None).status == 503
        counted = {"operation": probe, "dialect": "system", "code": "unavailable"}
        assert worker.app.metrics.registry.get_sample_value("phalanx_requests_total", counted) == 1
    answer = worker.post("/v1/text/embed", {"texts": ["Hello"]})
    assert answer.status == 503
    assert "phalanx models pull all-MiniLM-L6-v2" in answer.json["detail"]


def test_production_refuses_it(tmp_path: Path) -> None:
    environ = {"FALLBACK": "simulated", "APP_ENV": "production", "JWT_SECRET": "x" * 40}
    with pytest.raises(SettingsError, match="FALLBACK=simulated is refused when APP_ENV is production"):
        load(environ, folder=tmp_path)


def test_every_answer_of_a_model_can_say_so() -> None:
    """A row whose answer names a model has a field for it; but for galleries, which no stand-in ever answers."""
    lacking = [
        row.name for row in table(plugins=False).values()
        if "model" in row.response.__struct_fields__ and row.computed and not row.path.startswith("/v1/collections/")
        and "simulated" not in row.response.__struct_fields__
    ]  # fmt: skip
    assert lacking == []
