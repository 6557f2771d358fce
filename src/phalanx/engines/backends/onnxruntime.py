"""ONNX Runtime: float32 on the processor or on an NVIDIA GPU, and int8 where the graph says so."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from phalanx.engines.backends.graphs import Ids, Pixels, Port, Precision, Tensors, Vectors, numbered, only_input
from phalanx.engines.backends.signature import read_signature
from phalanx.errors import Unavailable

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"

PRECISION_KEY = "phalanx.precision"
"""The entry of a graph's metadata in which our own conversions say what they made."""


def has_cuda() -> bool:
    """Whether this ONNX Runtime was built for CUDA."""
    return CUDA in ort.get_available_providers()


class OnnxRuntimeBackend:
    """One session. Its results are arrays of their own."""

    name = "onnxruntime"

    def __init__(self, graph: Path, *, device: str = "cpu", precision: Precision = "f32", threads: int) -> None:
        self.device = device
        self.threads = threads if device == "cpu" else 0
        self._session = open_session(graph, device=device, precision=precision, threads=threads)
        signature = read_signature(
            graph.name,
            {port.name: len(port.shape) for port in self._session.get_inputs()},
            {
                port.name: tuple(size if isinstance(size, int) else None for size in port.shape)
                for port in self._session.get_outputs()
            },
        )
        self.precision = self._session.get_modelmeta().custom_metadata_map.get(PRECISION_KEY, precision)
        self.pooled, self.dimensions = signature.pooled, signature.dimensions
        self._outputs = [signature.output]
        self._wants_kinds = signature.wants_kinds

    def infer(self, input_ids: Ids, attention_mask: Ids) -> Vectors:
        """Run one batch."""
        feeds = {"input_ids": input_ids, "attention_mask": attention_mask}
        if self._wants_kinds:
            feeds["token_type_ids"] = np.zeros_like(input_ids)
        result: Vectors = self._session.run(self._outputs, feeds)[0]
        return result


class OnnxRuntimeImages:
    """A network that looks at pictures. Its results are arrays of their own."""

    name = "onnxruntime"

    def __init__(self, graph: Path, *, device: str = "cpu", precision: Precision = "f32", threads: int) -> None:
        self.device, self.precision = device, precision
        self.threads = threads if device == "cpu" else 0
        self._session = open_session(graph, device=device, precision=precision, threads=threads)
        self.input = only_input(graph.name, _ports(self._session.get_inputs()))
        self.outputs = _ports(self._session.get_outputs())

    def infer(self, pixels: Pixels) -> Tensors:
        """Run one batch."""
        results = self._session.run(None, {self.input.name: pixels})
        return dict(zip((port.name for port in self.outputs), results, strict=True))


def _ports(ports: Iterable[Any]) -> list[Port]:
    return [Port(port.name, numbered(port.shape)) for port in ports]


def open_session(graph: Path, *, device: str, precision: Precision, threads: int) -> ort.InferenceSession:
    """Load a graph. Raises `Unavailable` when it, the device or the precision is not to be had."""
    if precision != "f32":
        raise Unavailable(
            f"PRECISION is {precision}, which ONNX Runtime has not; set PRECISION=f32, or ENGINE=openvino"
        )
    session = _open(graph, device, threads)
    if device != "cpu" and CUDA not in session.get_providers():
        raise Unavailable(f"DEVICE is {device}, but CUDA could not be started there; see the log, or set DEVICE=cpu")
    return session


def _open(graph: Path, device: str, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # A pool that spins while it waits takes a core from the rest of the worker for nothing.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # The arena keeps the most that any shape ever needed; the system's allocator gives it back.
    options.enable_cpu_mem_arena = False
    providers = [CPU] if device == "cpu" else [(CUDA, {"device_id": int(device.removeprefix("cuda:"))}), CPU]
    try:
        return ort.InferenceSession(str(graph), options, providers=providers)
    except Exception as error:  # its exceptions share no other class
        raise Unavailable(f"ONNX Runtime cannot load {graph.name}: {str(error).strip().splitlines()[-1]}") from error
