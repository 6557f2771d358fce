"""The network of ArcFace r100 with weights drawn at random: 65 million parameters, 12 GMAC, to time the architecture.

As InsightFace's `iresnet.py`: batch normalisation, convolution, PReLU, convolution with the stride, shortcut. Those
normalisations that follow a convolution are taken as folded into it, as exporters do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE, DIMENSIONS = 112, 512
STAGES = ((64, 3), (128, 13), (256, 30), (512, 3))


def write_arcface(path: Path, seed: int = 1) -> int:
    """Write the graph, `[batch, 3, 112, 112]` to `[batch, 512]`; return how many parameters it has."""
    graph = _Graph(seed)
    value, channels = graph.prelu(graph.conv("data", 3, 64), 64), 64
    for filters, blocks in STAGES:
        for number in range(blocks):
            stride = 2 if number == 0 else 1
            inner = graph.prelu(graph.conv(graph.norm(value, channels), channels, filters), filters)
            inner = graph.conv(inner, filters, filters, stride=stride, gain=0.1)
            shortcut = graph.conv(value, channels, filters, size=1, stride=2) if number == 0 else value
            value, channels = graph.op("Add", inner, shortcut), filters
    flat = graph.op("Flatten", graph.norm(value, channels), axis=1)
    head = graph.weights((DIMENSIONS, channels * 49), channels * 49)
    vector = graph.op("Gemm", flat, head, graph.constant(np.zeros(DIMENSIONS)), transB=1)
    graph.op("Identity", vector, output="fc1")
    return graph.save(path)


class _Graph:
    def __init__(self, seed: int) -> None:
        self._draw = np.random.default_rng(seed)
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._parameters = 0

    def conv(
        self, value: str, channels: int, filters: int, *, size: int = 3, stride: int = 1, gain: float = 1.0
    ) -> str:
        weight = self.weights((filters, channels, size, size), channels * size * size, gain)
        bias, pad = self.constant(np.zeros(filters)), size // 2
        return self.op("Conv", value, weight, bias, kernel_shape=[size, size], strides=[stride] * 2, pads=[pad] * 4)

    def norm(self, value: str, channels: int) -> str:
        scale, shift = np.ones(channels), np.zeros(channels)
        return self.op("BatchNormalization", value, *map(self.constant, (scale, shift, shift, scale)))

    def prelu(self, value: str, channels: int) -> str:
        return self.op("PRelu", value, self.constant(np.full((channels, 1, 1), 0.25)))

    def weights(self, shape: tuple[int, ...], inputs: int, gain: float = 1.0) -> str:
        return self.constant(self._draw.standard_normal(shape, dtype=np.float32) * gain * (2 / inputs) ** 0.5)

    def constant(self, value: Any) -> str:
        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(value, dtype=np.float32), name))
        self._parameters += int(np.size(value))
        return name

    def op(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        name = output or f"v{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def save(self, path: Path) -> int:
        taken = helper.make_tensor_value_info("data", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])
        given = helper.make_tensor_value_info("fc1", TensorProto.FLOAT, ["batch", DIMENSIONS])
        graph = helper.make_graph(self._nodes, "arcface-r100", [taken], [given], self._constants)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
        return self._parameters
