"""dlib's face network as an ONNX graph of our own: the residual network of `dnn_face_recognition_ex.cpp`, 29 layers.

Everything that is constant is folded into the convolutions, in float64: the affine layer after each, and the input's
mean and scale into the first, which is exact since that one has no padding. So the graph takes RGB levels as they are,
and whole numbers up to 255 are exact in bfloat16 too. The graph holds its weights: the folded ones are in no file.
Architecture: He et al., "Deep Residual Learning for Image Recognition", https://arxiv.org/abs/1512.03385.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from phalanx.models.conversion import UnsupportedModel
from phalanx.models.conversion.dlib_file import DIMENSIONS, SIDE, Block, Convolution, DlibResnet, Unit, read_resnet

GRAPH = "model.onnx"
WEIGHTS = "model.dat"

OPSET = 17
IR_VERSION = 9

INPUT_SCALE = 256.0
"""By which dlib's `input_rgb_image_sized` divides the levels, less their mean."""


def write_graph(folder: Path) -> list[str]:
    """Write `model.onnx` into a folder with `model.dat`; return the names of what was written.

    Input: `input`, float32 `[batch, 3, 150, 150]`, RGB levels of 0 to 255 of an aligned face. Output: `embedding`,
    float32 `[batch, 128]`, not of unit length. The same file gives the same bytes. Raises `UnsupportedModel`.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise UnsupportedModel(f"{WEIGHTS} is missing; the conversion reads dlib's network from it")
    partial = folder / f".{GRAPH}.part"
    partial.write_bytes(build_graph(read_resnet(path)).SerializeToString(deterministic=True))
    partial.replace(folder / GRAPH)
    return [GRAPH]


def build_graph(network: DlibResnet) -> onnx.ModelProto:
    """Return the whole model, checked."""
    model = _Graph().build(network)
    onnx.checker.check_model(model)
    return model


class _Graph:
    """Builds the graph. Methods take and return names of values."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def build(self, network: DlibResnet) -> onnx.ModelProto:
        weight, bias = _folded(network.stem)
        weight, bias = _with_input(weight, bias, network.mean)
        value = self._op("Relu", self._convolve("stem", "input", network.stem.convolution, weight, bias), name="stem")
        side = _side_after(SIDE, network.stem.convolution)
        value = self._op("MaxPool", value, name="pool", kernel_shape=[3, 3], strides=[2, 2])
        side = (side - 3) // 2 + 1
        for number, block in enumerate(network.blocks):
            value, side = self._block(f"block{number}", block, value, side)
        features = self._op("Flatten", self._op("GlobalAveragePool", value, name="average"), name="features", axis=1)
        self._op("MatMul", features, self._constant("head", network.head), name="embedding")
        return self._model()

    def _block(self, at: str, block: Block, value: str, side: int) -> tuple[str, int]:
        """Add a residual block; return its output and how many pixels a side that has.

        dlib adds what differs in size by filling up with zeros: channels at the end, pixels at the right and bottom.
        Where the picture is halved the shortcut has fewer channels, and may have a pixel more.
        """
        inner_side = _side_after(side, block.first.convolution)
        first = self._op("Relu", self._unit(f"{at}.first", value, block.first), name=f"{at}.first")
        inner = self._unit(f"{at}.second", first, block.second)
        shortcut = value
        channels, wanted = block.first.convolution.weight.shape[1], block.first.convolution.weight.shape[0]
        if block.halves:
            shortcut = self._op("AveragePool", value, name=f"{at}.halved", kernel_shape=[2, 2], strides=[2, 2])
            side = side // 2
        inner = self._fill(f"{at}.inner", inner, pixels=side - inner_side)
        shortcut = self._fill(f"{at}.shortcut", shortcut, channels=wanted - channels, pixels=inner_side - side)
        return self._op("Relu", self._op("Add", inner, shortcut, name=f"{at}.sum"), name=at), max(side, inner_side)

    def _fill(self, at: str, value: str, *, channels: int = 0, pixels: int = 0) -> str:
        channels, pixels = max(0, channels), max(0, pixels)
        if not channels and not pixels:
            return value
        ends = self._constant(f"{at}.ends", np.array([0, 0, 0, 0, 0, channels, pixels, pixels], dtype=np.int64))
        return self._op("Pad", value, ends, name=f"{at}.filled")

    def _unit(self, at: str, value: str, unit: Unit) -> str:
        return self._convolve(at, value, unit.convolution, *_folded(unit))

    def _convolve(
        self,
        at: str,
        value: str,
        convolution: Convolution,
        weight: npt.NDArray[np.float64],
        bias: npt.NDArray[np.float64],
    ) -> str:
        names = (
            self._constant(f"{at}.weight", weight.astype(np.float32)),
            self._constant(f"{at}.bias", bias.astype(np.float32)),
        )
        return self._op(
            "Conv", value, *names, name=f"{at}.convolution", kernel_shape=list(weight.shape[2:]),
            strides=[convolution.stride] * 2, pads=[convolution.padding] * 4,
        )  # fmt: skip

    def _constant(self, name: str, value: npt.NDArray[Any]) -> str:
        self._constants.append(numpy_helper.from_array(value, name))
        return name

    def _op(self, kind: str, *inputs: str, name: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def _model(self) -> onnx.ModelProto:
        taken = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])
        given = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", DIMENSIONS])
        graph = helper.make_graph(self._nodes, "dlib-resnet", [taken], [given], self._constants)
        opset = helper.make_opsetid("", OPSET)
        return helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="phalanx")


def _folded(unit: Unit) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return weight and bias of a convolution that does its affine layer's work too."""
    gamma = unit.affine.gamma.astype(np.float64)
    weight = unit.convolution.weight * gamma[:, None, None, None]
    return weight, unit.convolution.bias * gamma + unit.affine.beta


def _with_input(
    weight: npt.NDArray[np.float64], bias: npt.NDArray[np.float64], mean: tuple[float, float, float]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return weight and bias that take levels as they are, instead of `(level - mean) / 256`."""
    scaled = weight / INPUT_SCALE
    return scaled, bias - np.einsum("oihw,i->o", scaled, np.array(mean))


def _side_after(side: int, convolution: Convolution) -> int:
    size: int = convolution.weight.shape[2]
    return (side + 2 * convolution.padding - size) // convolution.stride + 1
