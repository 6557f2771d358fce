"""OpenVINO on the processor: float32 or bfloat16, and int8 where the graph says so."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from phalanx.engines.backends.devices import processor_name
from phalanx.engines.backends.graphs import Ids, Pixels, Port, Precision, Tensors, Vectors, only_input
from phalanx.engines.backends.mapped import forget_pages
from phalanx.engines.backends.signature import Signature, read_signature
from phalanx.engines.threads import visible_cores
from phalanx.errors import Unavailable

KERNEL_CACHE = 256
"""Compiled kernels of each kind that are kept. Shapes come from a ladder of fewer than 200 (`engines/text/shapes.py`),
so this bounds nothing by itself; at 32 a change of shape cost 2.5 ms instead of 0.8, and saved 12 MiB."""


@functools.cache
def openvino_core() -> ov.Core:
    """Return the process's one Core, which is never let go.

    Its plug-in for the processor lends the thread that first uses it a stack for signals, since the usual one is too small
    for the registers of newer processors, and frees it with the Core. Let go from another thread, it left the first one with
    a stack that was gone, and the next signal there was a crash.
    """
    return ov.Core()


def offers_bf16() -> bool:
    """Whether OpenVINO can compute in bfloat16 here, be it by imitation."""
    return "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def require_precision(precision: Precision) -> None:
    """Raise `Unavailable` when this processor cannot compute in it."""
    if precision == "bf16" and not offers_bf16():
        raise Unavailable(f"PRECISION is bf16, which the {processor_name()} has not; set PRECISION=f32 or auto")


def compile_settings(precision: str, threads: int) -> dict[str, Any]:
    """Return what a graph is compiled with: one stream over all threads, in the precision named and no other."""
    return {
        # Never left to the default, which is bf16 or f16 by processor: the same worker would answer differently.
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        # It pins from core 0 on, in each process alike: two workers of one thread each shared one core, at half the rate.
        "ENABLE_CPU_PINNING": threads >= visible_cores(),
        "CPU_RUNTIME_CACHE_CAPACITY": KERNEL_CACHE,
    }


class OpenVinoBackend:
    """One stream over all threads. Inputs are read where they lie; the result is the request's own memory."""

    name = "openvino"
    device = "cpu"

    def __init__(
        self, graph: Path, *, precision: Precision, threads: int, fixed_shapes: Sequence[tuple[int, int]] = ()
    ) -> None:
        require_precision(precision)
        self.threads = threads
        core = openvino_core()
        model = read_graph(core, graph)
        signature = read_signature(
            graph.name,
            {port.get_any_name(): port.partial_shape.rank.get_length() for port in model.inputs},
            {name: sizes(port.partial_shape) for port in model.outputs for name in port.names},
        )
        is_int8 = any(node.get_type_name() == "FakeQuantize" for node in model.get_ops())
        self.precision = "int8" if is_int8 else precision
        # What is not int8 in such a graph runs in float32: measured faster than bf16, for want of conversions.
        rest = "f32" if is_int8 else precision
        self.pooled, self.dimensions = signature.pooled, signature.dimensions
        settings = compile_settings(rest, threads)
        self._any = _Request(core.compile_model(model, "CPU", settings), signature)
        self._fixed: dict[tuple[int, ...], _Request] = {}
        # With its shape fixed, an int8 graph is fused otherwise and rounds otherwise: cosine 0.9993 to the other one.
        for shape in () if is_int8 else fixed_shapes:
            still = model.clone()
            still.reshape({port.get_any_name(): list(shape) for port in still.inputs})
            self._fixed[shape] = _Request(core.compile_model(still, "CPU", settings), signature)
        forget_pages(graph.parent.resolve())

    def infer(self, input_ids: Ids, attention_mask: Ids) -> Vectors:
        """Run one batch; the result is valid until the next call."""
        return self._fixed.get(input_ids.shape, self._any).run(input_ids, attention_mask)


class OpenVinoImages:
    """A network that looks at pictures. The input is read where it lies; results are the request's own memory."""

    name = "openvino"
    device = "cpu"

    def __init__(self, graph: Path, *, precision: Precision, threads: int, shape: Sequence[int] | None = None) -> None:
        require_precision(precision)
        self.precision, self.threads = precision, threads
        core = openvino_core()
        model = read_graph(core, graph)
        only_input(graph.name, [_port(port) for port in model.inputs])
        if shape is not None:
            model.reshape(list(shape))
        compiled = core.compile_model(model, "CPU", compile_settings(precision, threads))
        self.input = _port(compiled.inputs[0])
        self.outputs = [_port(port) for port in compiled.outputs]
        self._request = compiled.create_infer_request()
        forget_pages(graph.parent.resolve())

    def infer(self, pixels: Pixels) -> Tensors:
        """Run one batch; the results are valid until the next call."""
        request = self._request
        # The request does not keep the array alive: the name does, until the results are there.
        whole = np.ascontiguousarray(pixels, dtype=np.float32)
        request.set_input_tensor(0, ov.Tensor(whole, shared_memory=True))
        request.infer()
        return {port.name: request.get_output_tensor(at).data for at, port in enumerate(self.outputs)}


def _port(port: Any) -> Port:
    return Port(port.get_any_name(), sizes(port.partial_shape))


class _Request:
    """An inference request with where its inputs go."""

    def __init__(self, compiled: Any, signature: Signature) -> None:
        self._request = compiled.create_infer_request()
        names = [port.get_any_name() for port in compiled.inputs]
        self._ids, self._mask = names.index("input_ids"), names.index("attention_mask")
        self._kinds = names.index("token_type_ids") if signature.wants_kinds else None
        self._output = next(at for at, port in enumerate(compiled.outputs) if signature.output in port.names)

    def run(self, input_ids: Ids, attention_mask: Ids) -> Vectors:
        request = self._request
        request.set_input_tensor(self._ids, ov.Tensor(input_ids, shared_memory=True))
        request.set_input_tensor(self._mask, ov.Tensor(attention_mask, shared_memory=True))
        if self._kinds is not None:
            request.set_input_tensor(self._kinds, ov.Tensor(np.zeros_like(input_ids), shared_memory=True))
        request.infer()
        result: Vectors = request.get_output_tensor(self._output).data
        return result


def read_graph(core: Any, graph: Path) -> Any:
    """Read a model file. Raises `Unavailable` when it is none."""
    try:
        return core.read_model(graph)
    except RuntimeError as error:
        raise Unavailable(f"OpenVINO cannot read {graph.name}: {str(error).strip().splitlines()[-1]}") from error


def sizes(shape: Any) -> tuple[int | None, ...]:
    """Return a partial shape, None where a size is free."""
    return tuple(size.get_length() if size.is_static else None for size in shape)
