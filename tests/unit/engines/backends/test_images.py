"""Networks that look at pictures, on either engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from phalanx.engines.backends import EngineName
from phalanx.engines.backends.graphs import Port
from phalanx.engines.backends.images import open_image_backend
from phalanx.errors import Unavailable

ENGINES: list[EngineName] = ["openvino", "onnxruntime"]


def write_graph(path: Path, *, batch: int | str = "batch", inputs: int = 1) -> Path:
    """A network with two outputs: twice the picture, and its mean over rows and columns."""
    names = [f"picture{number}" for number in range(inputs)]
    nodes = [
        helper.make_node("Sum", [names[0], names[-1]], ["twice"]),
        helper.make_node("ReduceMean", [names[0]], ["mean"], axes=[2, 3], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 3, 4, 5]) for name in names],
        [
            helper.make_tensor_value_info("twice", TensorProto.FLOAT, [batch, 3, 4, 5]),
            helper.make_tensor_value_info("mean", TensorProto.FLOAT, [batch, 3]),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.mark.parametrize("engine", ENGINES)
def test_every_output_comes_by_its_name(tmp_path: Path, engine: EngineName) -> None:
    backend = open_image_backend(write_graph(tmp_path / "g.onnx"), engine=engine, threads=1)
    assert backend.input == Port("picture0", (None, 3, 4, 5))
    assert list(backend.outputs) == [Port("twice", (None, 3, 4, 5)), Port("mean", (None, 3))]
    assert (backend.name, backend.device, backend.precision, backend.threads) == (engine, "cpu", "f32", 1)
    pixels = np.random.default_rng(1).normal(size=(2, 3, 4, 5)).astype(np.float32)
    found = backend.infer(pixels)
    np.testing.assert_allclose(found["twice"], 2 * pixels, atol=1e-6)
    np.testing.assert_allclose(found["mean"], pixels.mean(axis=(2, 3)), atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_pixels_may_lie_in_any_order(tmp_path: Path, engine: EngineName) -> None:
    """A view of a picture with its channels last is copied, and the copy lives until the batch is done."""
    backend = open_image_backend(write_graph(tmp_path / "g.onnx"), engine=engine)
    picture = np.random.default_rng(1).normal(size=(64, 4, 5, 3)).astype(np.float32)
    found = backend.infer(picture.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(found["mean"], picture.mean(axis=(1, 2)), atol=1e-6)


def test_a_batch_of_one_can_be_made_larger(tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "g.onnx", batch=1)
    assert open_image_backend(graph, engine="openvino").input.shape == (1, 3, 4, 5)
    backend = open_image_backend(graph, engine="openvino", shape=(6, 3, 4, 5))
    assert backend.infer(np.zeros((6, 3, 4, 5), dtype=np.float32))["mean"].shape == (6, 3)
    with pytest.raises(Unavailable, match="takes a graph's shapes as they are"):
        open_image_backend(graph, engine="onnxruntime", shape=(6, 3, 4, 5))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_graph_of_several_inputs_is_refused(tmp_path: Path, engine: EngineName) -> None:
    with pytest.raises(Unavailable, match=r"g\.onnx takes picture0, picture1; "):
        open_image_backend(write_graph(tmp_path / "g.onnx", inputs=2), engine=engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_no_graph_is_refused(tmp_path: Path, engine: EngineName) -> None:
    (tmp_path / "g.onnx").write_bytes(b"no graph")
    with pytest.raises(Unavailable, match=r"g\.onnx"):
        open_image_backend(tmp_path / "g.onnx", engine=engine)


def test_bf16_is_for_openvino_only(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="which ONNX Runtime has not"):
        open_image_backend(write_graph(tmp_path / "g.onnx"), engine="onnxruntime", precision="bf16")
