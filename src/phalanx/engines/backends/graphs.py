"""What a loaded graph is to those who run it: its facts, and the two kinds there are, of texts and of pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from phalanx.errors import Unavailable

EngineName = Literal["auto", "openvino", "onnxruntime"]
Precision = Literal["f32", "bf16"]
Ids = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.float32]
Tensors = Mapping[str, npt.NDArray[np.float32]]


class Port(NamedTuple):
    """An input or output of a graph; a size is None where it is free, as that of the batch usually is."""

    name: str
    shape: tuple[int | None, ...]


class Loaded(Protocol):
    """A graph that is loaded, whatever it is of. One thread uses it."""

    @property
    def name(self) -> str:
        """`openvino` or `onnxruntime`."""
        ...

    @property
    def device(self) -> str:
        """`cpu` or `cuda:<n>`."""
        ...

    @property
    def precision(self) -> str:
        """`f32`, `bf16` or `int8`: the arithmetic of the products."""
        ...

    @property
    def threads(self) -> int:
        """Threads of the processor that a batch runs on; 0 on a GPU."""
        ...


class Backend(Loaded, Protocol):
    """A graph of a text encoder."""

    @property
    def pooled(self) -> bool:
        """Whether the graph gives one vector a text, `[batch, d]`, rather than one a token, `[batch, seq, d]`."""
        ...

    @property
    def dimensions(self) -> int:
        """The length of a vector."""
        ...

    def infer(self, input_ids: Ids, attention_mask: Ids) -> Vectors:
        """Run one batch, both inputs `[batch, seq]`. The result may be the backend's own memory: valid until the next call."""
        ...


class ImageBackend(Loaded, Protocol):
    """A graph with one input, for networks that look at pictures."""

    @property
    def input(self) -> Port:
        """The one input."""
        ...

    @property
    def outputs(self) -> Sequence[Port]:
        """The outputs, in the graph's order."""
        ...

    def infer(self, pixels: Pixels) -> Tensors:
        """Run one batch, float32 in the shape of `input`; return every output by its name.

        The results may be the backend's own memory: valid until the next call.
        """
        ...


def only_input(graph: str, inputs: Sequence[Port]) -> Port:
    """Return the one input of a graph. Raises `Unavailable` when it has another number of them."""
    if len(inputs) != 1:
        named = ", ".join(port.name for port in inputs) or "nothing"
        raise Unavailable(f"{graph} takes {named}; a network that looks at pictures takes one tensor")
    return inputs[0]


def numbered(shape: Sequence[Any]) -> tuple[int | None, ...]:
    """Return a shape with None for sizes that are no numbers, as ONNX Runtime names free ones."""
    return tuple(size if isinstance(size, int) and size >= 0 else None for size in shape)
