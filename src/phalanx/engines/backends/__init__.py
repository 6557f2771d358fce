"""Backends: what runs a text encoder's graph. One of them is chosen when a model is loaded, and named in `/info`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from phalanx.engines.backends.devices import gpu_name, has_native_bf16, processor_name, sees_gpu
from phalanx.engines.backends.graphs import Backend, EngineName, Ids, Precision, Vectors
from phalanx.engines.threads import usable_cpus
from phalanx.errors import Unavailable

__all__ = [
    "Backend", "EngineName", "Ids", "Precision", "Vectors", "choose_device", "describe_devices", "open_backend", "runs_bf16",
]  # fmt: skip


def open_backend(
    graph: Path,
    *,
    engine: EngineName = "auto",
    device: str = "auto",
    precision: Precision = "f32",
    threads: int | None = None,
    fixed_shapes: Sequence[tuple[int, int]] = (),
) -> Backend:
    """Load a graph.

    `engine` auto is OpenVINO on a processor and ONNX Runtime on a GPU; `device` auto is the first GPU where one can
    really be used, else the processor. `threads` is by default what the CPU quota allows. `fixed_shapes` are those
    `(batch, seq)` that are worth memory of their own to be fastest. Raises `Unavailable` naming what to change.
    """
    place = choose_device(engine, device)
    if place != "cpu" or engine == "onnxruntime":
        from phalanx.engines.backends.onnxruntime import OnnxRuntimeBackend

        return OnnxRuntimeBackend(graph, device=place, precision=precision, threads=threads or usable_cpus())
    from phalanx.engines.backends.openvino import OpenVinoBackend

    return OpenVinoBackend(graph, precision=precision, threads=threads or usable_cpus(), fixed_shapes=fixed_shapes)


def choose_device(engine: EngineName, device: str) -> str:
    """Return `cpu` or `cuda:<n>` for what was asked.

    Raises `Unavailable` when it cannot be had: a GPU without ONNX Runtime's CUDA provider, or with OpenVINO.
    """
    if device == "cpu" or (device == "auto" and (engine == "openvino" or not sees_gpu())):
        return "cpu"
    if device != "auto" and not re.fullmatch(r"cuda:\d{1,3}", device):
        raise Unavailable(f"DEVICE is {device!r}; it may be auto, cpu, or cuda:0 and further numbers")
    if engine == "openvino":
        raise Unavailable(
            f"DEVICE is {device} and ENGINE openvino, which runs on the processor; set ENGINE=onnxruntime"
        )
    from phalanx.engines.backends.onnxruntime import has_cuda

    if has_cuda():
        return "cuda:0" if device == "auto" else device
    if device == "auto":
        return "cpu"
    raise Unavailable(
        f"DEVICE is {device}, but this ONNX Runtime has no CUDA provider: pip uninstall onnxruntime, then "
        "pip install 'phalanx[cuda]'; or set DEVICE=cpu"
    )


def runs_bf16(engine: EngineName, device: str) -> bool:
    """Whether bfloat16 is to be had with this engine and device, in hardware."""
    if engine == "onnxruntime" or choose_device(engine, device) != "cpu":
        return False
    from phalanx.engines.backends.openvino import offers_bf16

    return has_native_bf16() and offers_bf16()


def describe_devices() -> list[str]:
    """Say in a line each on what the engines can run here: for `phalanx doctor`."""
    bf16 = "bfloat16 in hardware" if has_native_bf16() else "no bfloat16 in hardware: float32"
    lines = [f"processor: {processor_name()}, {bf16}"]
    if sees_gpu():
        from phalanx.engines.backends.onnxruntime import has_cuda

        use = "usable by ONNX Runtime" if has_cuda() else "not used: pip install 'phalanx[cuda]'"
        lines.append(f"cuda:0: {gpu_name(0)}, {use}")
    return lines
