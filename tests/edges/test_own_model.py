"""Models of the user's own, by MODEL_PATH, and other choices of a model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def weights(models_dir: Path, tmp_path: Path) -> Path:
    """A folder as a hub has it: weights, configuration, tokeniser, no graph."""
    (version,) = (path.parent for path in models_dir.glob("all-MiniLM-L6-v2/*/model.safetensors"))
    folder = tmp_path / "my-model"
    folder.mkdir()
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        shutil.copy(version / name, folder / name)
    return folder


def vector(worker: Any, **body: Any) -> Any:
    answer = worker.post("/v1/text/embed", {"texts": ["Hello world"], **body})
    assert answer.status == 200, answer.body
    return answer.json["embeddings"][0]


def test_a_folder_of_weights_serves_unpinned(start_worker: Callable[..., Any], worker: Any, weights: Path) -> None:
    """Under the folder's name, with the vectors of the same weights from the catalogue."""
    own = start_worker(MODEL_PATH=str(weights))
    (model,) = own.get("/v1/models").json["data"]
    assert (model["id"], model["max_tokens"], model["dimensions"]) == ("my-model", 512, 384)
    assert np.dot(vector(own), vector(worker)) > 0.9999
    assert np.dot(vector(own, model="my-model"), vector(worker)) > 0.9999


def test_a_folder_with_a_graph_serves(
    start_worker: Callable[..., Any], worker: Any, weights: Path, models_dir: Path
) -> None:
    """An ONNX file beside the tokeniser, named itself or by its folder; ONNX Runtime gives the same vectors."""
    (graph,) = models_dir.glob("all-MiniLM-L6-v2/*/model.onnx")
    shutil.copy(graph, weights / "model.onnx")
    for path in (weights, weights / "model.onnx"):
        own = start_worker(MODEL_PATH=str(path), ENGINE="onnxruntime", MAX_TOKENS="128")
        assert own.get("/info").json["max_input_length"] == 128
        assert np.dot(vector(own), vector(worker)) > 0.9999


def test_a_folder_without_its_tokeniser_says_so(start_worker: Callable[..., Any], weights: Path) -> None:
    """The worker is not ready and names the file."""
    (weights / "tokenizer.json").unlink()
    own = start_worker(MODEL_PATH=str(weights))
    answer = own.get("/readyz", key=None)
    assert (answer.status, b"tokenizer.json" in answer.body) == (503, True)


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"MODEL_NAME": "no-such-model"}, b"no-such-model"),
        ({"MAX_TOKENS": "513"}, b"room for 512"),
        ({"PRECISION": "int8"}, b"not quantised"),
        ({"DEVICE": "cuda:0"}, b"phalanx[cuda]"),
    ],
)
def test_a_choice_that_cannot_be_had_says_what_to_do(
    start_worker: Callable[..., Any], environ: dict[str, str], words: bytes
) -> None:
    """The worker stays up, not ready, with the reason."""
    own = start_worker(**environ)
    answer = own.get("/readyz", key=None)
    assert (answer.status, words in answer.body) == (503, True), answer.body
    assert own.get("/livez", key=None).status == 200
    assert own.post("/v1/text/embed", {"texts": ["a"]}).status == 503


@pytest.mark.parametrize("limit", ["16", "512"])
def test_another_limit_is_no_other_model(start_worker: Callable[..., Any], worker: Any, limit: str) -> None:
    """MAX_TOKENS below or above the model's own: the golden check counts the texts that are not cut."""
    own = start_worker(MAX_TOKENS=limit)
    assert own.get("/info", key=None).json["max_input_length"] == int(limit)
    assert np.dot(vector(own), vector(worker)) > 0.9999


def test_the_hub_id_is_a_name_of_the_model(start_worker: Callable[..., Any]) -> None:
    """MODEL_NAME may be the hub's id."""
    own = start_worker(MODEL_NAME="sentence-transformers/all-MiniLM-L6-v2")
    assert own.get("/readyz", key=None).status == 200
    assert [model["id"] for model in own.get("/v1/models").json["data"]] == ["all-MiniLM-L6-v2"]


def test_while_a_model_loads_its_names_are_known(start_worker: Callable[..., Any], tmp_path: Path) -> None:
    """By name or hub id: 503, come back, and not 404."""
    own = start_worker(MODEL_DIR=str(tmp_path))
    for name in ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"):
        answer = own.post("/v1/embeddings", {"input": "a", "model": name})
        assert (answer.status, "retry-after" in answer.headers) == (503, True)
    assert own.post("/v1/embeddings", {"input": "a", "model": "other"}).status == 404
