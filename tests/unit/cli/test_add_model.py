"""`phalanx models add`: a face network of the user's own in the store, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper
from typer.testing import CliRunner

from face_graphs import write_graph
from phalanx.cli.root import app
from phalanx.errors import Conflict, InvalidRequest, NotFound, PhalanxError, Unavailable
from phalanx.models.store import ModelStore


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "models"


def add(root: Path, name: str, file: Path, *more: str, licence: str = "MIT") -> str:
    words = ["models", "--model-dir", str(root), "add", name, "--file", str(file), "--licence", licence, *more]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def facts(root: Path, name: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["models", "--model-dir", str(root), "list", "--json"], catch_exceptions=False)
    return next(dict(model) for model in json.loads(done.stdout) if model["name"] == name)


def test_an_added_model_is_there_verified_and_active(root: Path, tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "mine.onnx")
    said = add(root, "mine", graph)
    assert "mine: 112 x 112 pixels, 3 dimensions, fed -1 to 1, rgb" in said
    store = ModelStore(root)
    version = store.active("mine")
    assert version.path("model.onnx").read_bytes() == graph.read_bytes()
    assert (version.task, version.dimensions, version.licence.spdx) == ("face-embedding", 3, "MIT")
    assert version.face is not None
    assert (version.face.template, version.face.metric, version.face.threshold) == ("arcface", "cosine", 0.4)
    assert [report.problem for report in store.verify("mine")] == [None]
    assert add(root, "mine", graph).endswith("is ready\n")
    assert len(store.versions("mine")) == 1


@pytest.mark.parametrize(
    ("scales", "more", "offset", "scale"),
    [
        (False, (), 127.5, 127.5),
        (True, (), 0.0, 1.0),
        (True, ("--range", "-1..1"), 127.5, 127.5),
        (False, ("--range", "0..255"), 0.0, 1.0),
    ],
)
def test_what_it_is_fed_is_found_out_or_said(
    root: Path, tmp_path: Path, scales: bool, more: tuple[str, ...], offset: float, scale: float
) -> None:
    add(root, "mine", write_graph(tmp_path / "mine.onnx", scales=scales), *more, "--channels", "bgr")
    face = ModelStore(root).active("mine").face
    assert face is not None
    assert (face.offset, face.scale, face.channels) == (offset, scale, "bgr")


def test_another_file_is_another_version_which_serves_when_told(root: Path, tmp_path: Path) -> None:
    add(root, "mine", write_graph(tmp_path / "one.onnx"))
    add(root, "mine", write_graph(tmp_path / "two.onnx", factor=2.0))
    store = ModelStore(root)
    first, second = (version.version for version in store.versions("mine"))
    assert store.active("mine").version == first
    assert store.activate("mine", second).version == second
    assert facts(root, "mine")["active"] == {second: 1.0}


def test_a_licence_that_may_bind_has_to_be_acknowledged(root: Path, tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "mine.onnx")
    with pytest.raises(InvalidRequest, match="non-commercial research only"):
        add(root, "mine", graph, licence="InsightFace-non-commercial")
    assert not root.exists()
    add(root, "mine", graph, "--acknowledge-licence", licence="InsightFace-non-commercial")
    licence = ModelStore(root).active("mine").licence
    assert licence.spdx == "InsightFace-non-commercial"
    assert "acknowledged" in licence.notice


@pytest.mark.parametrize("name", ["dlib-resnet-v1", "SFace", "all-MiniLM-L6-v2"])
def test_a_name_of_the_catalogue_is_refused(root: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(Conflict, match="of the catalogue; give yours another name"):
        add(root, name, write_graph(tmp_path / "mine.onnx"))


@pytest.mark.parametrize("name", ["../mine", "", ".mine", "a/b"])
def test_a_name_that_is_no_name_is_refused(root: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"the model cannot be added: .*\$\.name"):
        add(root, name, write_graph(tmp_path / "mine.onnx"))


def write_other(path: Path, taken: list[int | str], given: list[int | str]) -> Path:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "other",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, taken)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, given)],
    )
    onnx.save(helper.make_model(graph), path)
    return path


@pytest.mark.parametrize(
    ("taken", "given", "told"),
    [
        (["n", 112, 112, 3], ["n", 512], r"takes \[\?, 112, 112, 3\]; .* takes \[n, 3, side, side\]"),
        (["n", 3, "h", "w"], ["n", 512], r"takes \[\?, 3, \?, \?\]"),
        (["n", 3, 112, 96], ["n", 512], r"takes \[\?, 3, 112, 96\]"),
        (["n", 3, 112, 112], ["n", "d"], r"gives \[\?, \?\]; .* gives \[n, dimensions\]"),
        (["n", 3, 112, 112], ["n", 512, 7, 7], r"gives \[\?, 512, 7, 7\]"),
    ],
)
def test_a_graph_of_another_kind_is_refused(
    root: Path, tmp_path: Path, taken: list[int | str], given: list[int | str], told: str
) -> None:
    with pytest.raises(Unavailable, match=told):
        add(root, "mine", write_other(tmp_path / "mine.onnx", taken, given))


@pytest.mark.parametrize("content", [b"", b"no graph at all", b"\x08\x09" * 50])
def test_a_file_that_is_no_graph_is_refused(root: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mine.onnx").write_bytes(content)
    with pytest.raises(PhalanxError, match=r"mine\.onnx"):
        add(root, "mine", tmp_path / "mine.onnx")


def test_a_file_that_is_not_there_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no file"):
        add(root, "mine", tmp_path / "mine.onnx")
