"""OpenVINO on the processor: float32 or bfloat16, and int8 where the graph says so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from phalanx.engines.backends import Ids, Precision, Vectors
from phalanx.engines.backends.devices import processor_name
from phalanx.engines.backends.mapped import forget_pages
from phalanx.engines.backends.signature import Signature, read_signature
from phalanx.errors import Unavailable

KERNEL_CACHE = 256
"""Compiled kernels of each kind that are kept. Shapes come from a ladder of fewer than 200 (`engines/text/shapes.py`),
so this bounds nothing by itself; at 32 a change of shape cost 2.5 ms instead of 0.8, and saved 12 MiB."""


def offers_bf16() -> bool:
    """Whether OpenVINO can compute in bfloat16 here, be it by imitation."""
    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVinoBackend:
    """One stream over all threads. Inputs are read where they lie; the result is the request's own memory."""

    name = "openvino"
    device = "cpu"

    def __init__(
        self, graph: Path, *, precision: Precision, threads: int, fixed_shapes: Sequence[tuple[int, int]] = ()
    ) -> None:
        self.device_name = processor_name()
        if precision == "bf16" and not offers_bf16():
            raise Unavailable(f"PRECISION is bf16, which the {self.device_name} has not; set PRECISION=f32 or auto")
        self.threads = threads
        core = ov.Core()
        model = _read(core, graph)
        signature = read_signature(
            graph.name,
            {port.get_any_name(): port.partial_shape.rank.get_length() for port in model.inputs},
            {name: _sizes(port.partial_shape) for port in model.outputs for name in port.names},
        )
        is_int8 = any(node.get_type_name() == "FakeQuantize" for node in model.get_ops())
        self.precision = "int8" if is_int8 else precision
        # What is not int8 in such a graph runs in float32: measured faster than bf16, for want of conversions.
        rest = "f32" if is_int8 else precision
        self.pooled, self.dimensions = signature.pooled, signature.dimensions
        settings = {
            # Never left to the default, which is bf16 or f16 by processor: the same worker would answer differently.
            "INFERENCE_PRECISION_HINT": rest,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            "CPU_RUNTIME_CACHE_CAPACITY": KERNEL_CACHE,
        }
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


def _read(core: Any, graph: Path) -> Any:
    try:
        return core.read_model(graph)
    except RuntimeError as error:
        raise Unavailable(f"OpenVINO cannot read {graph.name}: {str(error).strip().splitlines()[-1]}") from error


def _sizes(shape: Any) -> tuple[int | None, ...]:
    return tuple(size.get_length() if size.is_static else None for size in shape)
