"""A small network of face vectors, as an ONNX file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def write_graph(
    path: Path, *, batch: int | str = "batch", size: int = 112, factor: float = 1.0, scales: bool = False
) -> Path:
    """A network that gives the mean of each channel, times a factor; with `scales` of levels brought to -1 to 1."""
    scaling = [
        helper.make_node("Sub", ["data", "centre"], ["centred"]),
        helper.make_node("Mul", ["centred", "part"], ["scaled"]),
    ]
    constants = {"factor": factor, "centre": 127.5, "part": 1 / 127.5}
    used = constants if scales else {"factor": factor}
    nodes = [
        *(scaling if scales else []),
        helper.make_node("GlobalAveragePool", ["scaled" if scales else "data"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"], axis=1),
        helper.make_node("Mul", ["flat", "factor"], ["fc1"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, [batch, 3, size, size])],
        [helper.make_tensor_value_info("fc1", TensorProto.FLOAT, [batch, 3])],
        [numpy_helper.from_array(np.asarray(value, dtype=np.float32), name) for name, value in used.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path
