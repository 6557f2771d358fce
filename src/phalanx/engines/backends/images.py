"""Backends for networks that look at pictures: one tensor of pixels in, any number of tensors out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from phalanx.engines.backends import EngineName, Precision, choose_device
from phalanx.engines.threads import usable_cpus
from phalanx.errors import Unavailable

Pixels = npt.NDArray[np.float32]
Tensors = Mapping[str, npt.NDArray[np.float32]]


class Port(NamedTuple):
    """An input or output of a graph; a size is None where it is free, as that of the batch usually is."""

    name: str
    shape: tuple[int | None, ...]


class ImageBackend(Protocol):
    """A graph with one input, loaded. One thread uses it."""

    @property
    def name(self) -> str:
        """`openvino` or `onnxruntime`."""
        ...

    @property
    def device(self) -> str:
        """`cpu` or `cuda:<n>`."""
        ...

    @property
    def device_name(self) -> str:
        """What the device calls itself, such as the processor's model name."""
        ...

    @property
    def precision(self) -> str:
        """`f32` or `bf16`: the arithmetic of the products."""
        ...

    @property
    def threads(self) -> int:
        """Threads of the processor that a batch runs on; 0 on a GPU."""
        ...

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


def open_image_backend(
    graph: Path,
    *,
    engine: EngineName = "auto",
    device: str = "auto",
    precision: Precision = "f32",
    threads: int | None = None,
    shape: Sequence[int] | None = None,
) -> ImageBackend:
    """Load a graph, ONNX, or TFLite where OpenVINO runs it.

    `engine`, `device` and `threads` are as for `open_backend`. `shape` replaces the input's, such as a batch of one by
    a larger one; sizes of -1 become free. Raises `Unavailable` naming what to change.
    """
    place = choose_device(engine, device)
    runs_tflite = graph.suffix == ".tflite"
    if (place != "cpu" or engine == "onnxruntime") and not runs_tflite:
        from phalanx.engines.backends.onnxruntime import OnnxRuntimeImages

        if shape is not None:
            raise Unavailable("ONNX Runtime takes a graph's shapes as they are; set ENGINE=openvino")
        return OnnxRuntimeImages(graph, device=place, precision=precision, threads=threads or usable_cpus())
    from phalanx.engines.backends.openvino import OpenVinoImages

    return OpenVinoImages(graph, precision=precision, threads=threads or usable_cpus(), shape=shape)


def only_input(graph: str, inputs: Sequence[Port]) -> Port:
    """Return the one input of a graph. Raises `Unavailable` when it has another number of them."""
    if len(inputs) != 1:
        named = ", ".join(port.name for port in inputs) or "nothing"
        raise Unavailable(f"{graph} takes {named}; a network that looks at pictures takes one tensor")
    return inputs[0]


def numbered(shape: Sequence[Any]) -> tuple[int | None, ...]:
    """Return a shape with None for sizes that are no numbers, as ONNX Runtime names free ones."""
    return tuple(size if isinstance(size, int) and size >= 0 else None for size in shape)
