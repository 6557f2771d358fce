"""Reads dlib's `dlib_face_recognition_resnet_model_v1.dat`: what each layer computes, and with which numbers.

Source of the format: dlib's own serialisation, `dlib/serialize.h` for the primitives and `dlib/dnn/layers.h`,
`dlib/dnn/core.h` for the layers (dlib 19 and later). The file does not say what network it holds, beside the names of
its layers: it is checked against the one that is expected, version by version and to the last byte.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from phalanx.models.conversion import UnsupportedModel

Floats = npt.NDArray[np.float32]

SIDE = 150
STEM_FILTERS = 32
STAGES = ((32, False, 3), (64, True, 3), (128, True, 2), (256, True, 2), (256, True, 0))
"""Of each stage, from the input on: filters, whether it begins by halving, residual blocks after that."""
DIMENSIONS = 128

LOSS_VERSION, ADD_VERSION, TAG_VERSION, INPUT_VERSION = 1, 2, 1, 3
TENSOR_VERSION, ALIAS_VERSION = 2, 1
INFINITIES = {32000: math.inf, 32001: -math.inf, 32002: math.nan}
"""Exponents that stand for what has no mantissa."""


class Convolution(NamedTuple):
    """`weight` is float32 `[out, in, k, k]`, `bias` `[out]`; not flipped, as in ONNX."""

    weight: Floats
    bias: Floats
    stride: int
    padding: int


class Affine(NamedTuple):
    """`gamma * x + beta`, each float32 `[channels]`: a batch normalisation after training."""

    gamma: Floats
    beta: Floats


class Unit(NamedTuple):
    """A convolution with the affine layer that follows it."""

    convolution: Convolution
    affine: Affine


class Block(NamedTuple):
    """Two units around a shortcut; `halves` says that the first one and the shortcut have stride 2."""

    first: Unit
    second: Unit
    halves: bool


@dataclass(frozen=True)
class DlibResnet:
    """The whole network. `mean` is of the input's channels (RGB, levels of 0 to 255), which are then divided by 256;
    `head` is `[256, 128]`: features times it are the vector."""

    mean: tuple[float, float, float]
    stem: Unit
    blocks: list[Block]
    head: Floats
    threshold: float


def read_resnet(path: Path) -> DlibResnet:
    """Read the network. Raises `UnsupportedModel` saying where the file differs from what is expected."""
    reader = _Reader(path.name, path.read_bytes())
    try:
        network = _Network(reader).read()
        reader.expect_end()
    except (struct.error, ValueError, OverflowError) as error:
        raise UnsupportedModel(f"{path.name} cannot be read as dlib's network: {error}") from error
    return network


class _Reader:
    """The primitives of the format, and complaints that name the place."""

    def __init__(self, name: str, content: bytes) -> None:
        self._name = name
        self._content = content
        self._at = 0

    def take(self, count: int) -> bytes:
        taken = self._content[self._at : self._at + count]
        if len(taken) < count:
            raise self.complaint(f"{count} bytes are wanted, {len(taken)} are left")
        self._at += count
        return taken

    def integer(self) -> int:
        """Read a control byte, its highest bit the sign and its low half the length, then that many bytes."""
        control = self.take(1)[0]
        length = control & 0x0F
        if control & 0x70 or not 1 <= length <= 8:
            raise self.complaint(f"{control:#04x} begins no integer")
        magnitude = int.from_bytes(self.take(length), "little")
        return -magnitude if control & 0x80 else magnitude

    def number(self) -> float:
        mantissa, exponent = self.integer(), self.integer()
        return INFINITIES[exponent] if exponent in INFINITIES else math.ldexp(mantissa, exponent)

    def flag(self) -> bool:
        found = self.take(1)
        if found not in (b"0", b"1"):
            raise self.complaint(f"{found!r} is no boolean")
        return found == b"1"

    def text(self) -> str:
        length = self.integer()
        if not 0 <= length <= 64:
            raise self.complaint(f"a name of {length} bytes")
        return self.take(length).decode("ascii")

    def expect(self, what: str, *wanted: int) -> None:
        found = tuple(self.integer() for _ in wanted)
        if found != wanted:
            raise self.complaint(f"{what} is {_listed(found)}; {_listed(wanted)} was expected")

    def expect_text(self, wanted: str) -> None:
        if (found := self.text()) != wanted:
            raise self.complaint(f"the layer is {found!r}; {wanted!r} was expected")

    def tensor(self, count: int) -> Floats:
        """Read a tensor of `count` numbers, whatever its shape, flat."""
        self.expect("the version of a tensor", TENSOR_VERSION)
        shape = [self.integer() for _ in range(4)]
        if math.prod(shape) != count:
            raise self.complaint(f"a tensor of shape {_listed(shape)}; {count} numbers were expected")
        values = np.frombuffer(self.take(4 * count), dtype="<f4").astype(np.float32)
        if not np.isfinite(values).all():
            raise self.complaint("a tensor holds numbers that are not finite")
        return values

    def alias(self, *shape: int) -> None:
        """Read a view of a tensor: its shape and no numbers."""
        self.expect("the version of a view", ALIAS_VERSION)
        self.expect("the shape of a view", *shape)

    def expect_end(self) -> None:
        if rest := len(self._content) - self._at:
            raise self.complaint(f"{rest} bytes are left after the last layer")

    def complaint(self, what: str) -> UnsupportedModel:
        return UnsupportedModel(
            f"{self._name}: at byte {self._at}: {what}. The one file that can be converted is dlib's "
            "dlib_face_recognition_resnet_model_v1.dat"
        )


class _Network:
    """Reads the parts in the order in which dlib nests them: versions from the output in, then layers from the input."""

    def __init__(self, reader: _Reader) -> None:
        self._reader = reader

    def read(self) -> DlibResnet:
        reader = self._reader
        reader.expect("the version of the loss", LOSS_VERSION)
        reader.expect_text("loss_metric_2")
        _margin, threshold = reader.number(), reader.number()
        for version in _versions():
            reader.expect("the version of a layer", version)
        mean = self._input()
        stem = self._unit(STEM_FILTERS, 3, size=7, stride=2, is_innermost=True)
        self._activation()
        self._pool("max_pool_2", size=3)
        blocks, channels = [], STEM_FILTERS
        for filters, halves, repeats in STAGES:
            for number in range(repeats + halves):
                blocks.append(self._block(filters, channels, halves=halves and number == 0))
                channels = filters
        self._pool("avg_pool_2", size=0)
        return DlibResnet(mean, stem, blocks, self._head(channels), threshold)

    def _input(self) -> tuple[float, float, float]:
        self._reader.expect_text("input_rgb_image_sized")
        mean = self._reader.number(), self._reader.number(), self._reader.number()
        self._reader.expect("the size of the input", SIDE, SIDE)
        return mean

    def _block(self, filters: int, channels: int, *, halves: bool) -> Block:
        first = self._unit(filters, channels, size=3, stride=2 if halves else 1)
        self._activation()
        second = self._unit(filters, filters, size=3, stride=1)
        if halves:
            self._pool("avg_pool_2", size=2)
        self._reader.expect_text("add_prev_")
        self._trailer()
        self._activation()
        return Block(first, second, halves)

    def _unit(self, filters: int, channels: int, *, size: int, stride: int, is_innermost: bool = False) -> Unit:
        convolution = self._convolution(filters, channels, size, stride, is_innermost=is_innermost)
        self._reader.expect_text("affine_")
        both = self._reader.tensor(2 * filters)
        self._reader.alias(1, filters, 1, 1)
        self._reader.alias(1, filters, 1, 1)
        self._reader.expect("the mode of an affine layer", 0)
        self._trailer()
        return Unit(convolution, Affine(both[:filters], both[filters:]))

    def _convolution(self, filters: int, channels: int, size: int, stride: int, *, is_innermost: bool) -> Convolution:
        reader = self._reader
        # dlib's default: half the kernel where the stride is 1, else none.
        padding = size // 2 if stride == 1 else 0
        reader.expect_text("con_4")
        count = filters * channels * size * size
        params = reader.tensor(count + filters)
        reader.expect(
            "a convolution's filters, size, stride and padding", filters, size, size, stride, stride, padding, padding
        )
        reader.alias(filters, channels, size, size)
        reader.alias(1, filters, 1, 1)
        self._learning_rates()
        self._trailer(is_innermost=is_innermost)
        weight = params[:count].reshape(filters, channels, size, size)
        return Convolution(weight, params[count:], stride, padding)

    def _head(self, features: int) -> Floats:
        reader = self._reader
        reader.expect_text("fc_2")
        reader.expect("the head's outputs and inputs", DIMENSIONS, features)
        weight = reader.tensor(features * DIMENSIONS).reshape(features, DIMENSIONS)
        reader.alias(features, DIMENSIONS, 1, 1)
        reader.alias(0, 0, 0, 0)
        reader.expect("whether the head has no bias", 1)
        self._learning_rates()
        self._trailer()
        return weight

    def _activation(self) -> None:
        self._reader.expect_text("relu_")
        self._trailer()

    def _pool(self, kind: str, *, size: int) -> None:
        """Read a pooling layer; size 0 takes the whole picture, at stride 1."""
        stride = 2 if size else 1
        self._reader.expect_text(kind)
        self._reader.expect("a pool's size, stride and padding", size, size, stride, stride, 0, 0)
        self._trailer()

    def _learning_rates(self) -> None:
        for _ in range(4):
            self._reader.number()

    def _trailer(self, *, is_innermost: bool = False) -> None:
        """Read what training left behind each layer: three flags and three tensors, which are empty."""
        for _ in range(3):
            self._reader.flag()
        for _ in range(3):
            self._reader.tensor(0)
        if is_innermost:
            self._reader.expect("the pictures a sample", 1)


def _versions() -> Iterator[int]:
    """Yield the version of each nested layer, from the output in: tags and skips have their own, as has the innermost."""
    yield ADD_VERSION  # the head
    yield ADD_VERSION  # the average over the picture
    for _, halves, repeats in reversed(STAGES):
        for _ in range(repeats):
            # relu, add, affine, convolution, relu, affine, convolution, then the tag that the shortcut starts from.
            yield from (*[ADD_VERSION] * 7, TAG_VERSION)
        if halves:
            # relu, add, pool, skip, tag, then as above.
            yield from (*[ADD_VERSION] * 3, TAG_VERSION, TAG_VERSION, *[ADD_VERSION] * 5, TAG_VERSION)
    yield from [ADD_VERSION] * 3  # the stem's pool, relu and affine
    yield INPUT_VERSION  # its convolution


def _listed(numbers: tuple[int, ...] | list[int]) -> str:
    return ", ".join(map(str, numbers))
