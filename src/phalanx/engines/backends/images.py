"""Opens networks that look at pictures: one tensor of pixels in, any number of tensors out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from phalanx.engines.backends import choose_device
from phalanx.engines.backends.graphs import EngineName, ImageBackend, Precision
from phalanx.engines.threads import usable_cpus
from phalanx.errors import Unavailable


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
