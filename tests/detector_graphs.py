"""Face detectors built as YuNet is, as ONNX files: one of random weights, and one that sees a face where it is told to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

STRIDES = (8, 16, 32)
WIDTHS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}


class _Writer:
    def __init__(self, seed: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(seed)

    def add(self, kind: str, *inputs: str, name: str | None = None, **attributes: object) -> str:
        name = name or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, value: npt.ArrayLike, kind: type = np.float32) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value, dtype=kind), name))
        return name

    def conv(self, x: str, taken: int, given: int, *, size: int = 1, groups: int = 1, stride: int = 1) -> str:
        scale = np.sqrt(2 / (taken // groups * size * size))
        weights = self.random.normal(0, scale, (given, taken // groups, size, size))
        bias = self.random.normal(0, 0.1, given)
        return self.add(
            "Conv", x, self.constant(weights), self.constant(bias), kernel_shape=[size, size], group=groups,
            pads=[size // 2] * 4, strides=[stride, stride],
        )  # fmt: skip

    def unit(self, x: str, taken: int, given: int) -> str:
        """YuNet's: point-wise, then depth-wise."""
        return self.add("Relu", self.conv(self.conv(x, taken, given), given, given, size=3, groups=given))

    def save(self, path: Path, side: int | str) -> Path:
        graph = helper.make_graph(
            self.nodes, "yunet",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, side, side])],
            [
                helper.make_tensor_value_info(
                    f"{name}_{stride}", TensorProto.FLOAT,
                    [1, (side // stride) ** 2 if isinstance(side, int) else f"n{stride}", width],
                )
                for name, width in WIDTHS.items() for stride in STRIDES
            ],
            self.weights,
        )  # fmt: skip
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6), path)
        return path

    def output(self, x: str, name: str, stride: int) -> None:
        """Channels last, cells in one row, and scores as probabilities, as the published file has them."""
        last = self.add("Transpose", x, perm=[0, 2, 3, 1])
        shape = self.constant([1, -1, WIDTHS[name]], np.int64)
        if name in ("cls", "obj"):
            self.add("Sigmoid", self.add("Reshape", last, shape), name=f"{name}_{stride}")
        else:
            self.add("Reshape", last, shape, name=f"{name}_{stride}")


def write_random(path: Path, *, side: int | str = 640, seed: int = 0) -> Path:
    """A backbone of strides to 32, a pyramid upwards, heads at 8, 16 and 32: YuNet's shape, with weights by chance."""
    net = _Writer(seed)
    x = net.add("Mul", "input", net.constant(1 / 255.0))
    x = net.add("Relu", net.conv(x, 3, 8, size=3, stride=2))
    levels = []
    for taken, given in ((8, 16), (16, 16), (16, 16), (16, 16)):
        x = net.unit(net.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), taken, given)
        levels.append(x)
    features = [levels[3]]
    for level in (levels[2], levels[1]):
        grown = net.add(
            "Resize", features[0], net.constant([], np.float32), net.constant([1, 1, 2, 2]), mode="nearest",
            coordinate_transformation_mode="asymmetric", nearest_mode="floor",
        )  # fmt: skip
        features.insert(0, net.add("Add", grown, level))
    for stride, feature in zip(STRIDES, features, strict=True):
        for name, width in WIDTHS.items():
            net.output(net.conv(feature, 16, width, size=3), name, stride)
    return net.save(path, side)


def write_seeing(
    path: Path,
    *,
    box: Sequence[float],
    points: Sequence[Sequence[float]],
    side: int = 640,
    swapped: bool = False,
    in_black: bool = False,
) -> Path:
    """A network that sees one face in whatever is not black: `box` (left, top, width, height) with five `points`.

    Both are in pixels of its square; the points come in YuNet's order, or, `swapped`, mirrored.
    """
    net = _Writer(0)
    stride = 32
    cells = side // stride
    left, top, width, height = box
    column, row = int((left + width / 2) // stride), int((top + height / 2) // stride)
    places = np.asarray(points, dtype=np.float64)[[1, 0, 2, 4, 3] if swapped else [0, 1, 2, 3, 4]]
    light = net.add("ReduceMean", "input", axes=[1, 2, 3], keepdims=1)
    lit = net.add("Sub", light, net.constant(-10.0 if in_black else 10.0))
    for each in STRIDES:
        count = (side // each) ** 2
        here = np.zeros((1, count, 1), dtype=np.float32)
        if each == stride:
            here[0, row * cells + column] = 1.0
        flat = net.add("Reshape", lit, net.constant([1, 1, 1], np.int64))
        for name in ("cls", "obj"):
            logit = net.add("Mul", flat, net.constant(here * 200 - 100))
            # Elsewhere far below nought whether lit or not.
            logit = net.add("Min", logit, net.constant(np.where(here > 0, 3.0, -30.0)))
            net.add("Sigmoid", logit, name=f"{name}_{each}")
        at = np.array([column, row]) * (each == stride)
        middle = np.array([left + width / 2, top + height / 2]) / each - at
        sizes = np.log(np.array([width, height]) / each)
        zero = net.add("Mul", flat, net.constant(0.0))
        facts = {"bbox": np.concatenate((middle, sizes)), "kps": (places / each - at).reshape(-1)}
        for name, values in facts.items():
            whole = np.broadcast_to(values, (1, count, WIDTHS[name]))
            net.add("Add", net.constant(whole), zero, name=f"{name}_{each}")
    return net.save(path, side)
