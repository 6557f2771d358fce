"""Products of one int8 vector with very many: OpenVINO's int8 matrix product, with int32 sums.

The graph is `FakeQuantize` over −128..127, which leaves whole numbers as they are, and a product with int8 constants: the
pattern that OpenVINO's low-precision passes turn into an int8 kernel. It reads rows at the speed of memory: 1,000,000 ×
512 in 34 ms on two cores, where numpy's float32 product takes 160.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset13 as ops

from phalanx.contract.vector import Vector
from phalanx.engines.backends.openvino import compile_settings, openvino_core

Bytes = npt.NDArray[np.int8]

BLOCK_BYTES = 64 * 2**20
"""A graph's share of the rows. As one graph of 512 MB the scan took 59 ms, not 34."""

MAX_EXACT = 1 << 24
"""Sums up to which float32, in which they are handed back, is exact."""


class InexactProducts(RuntimeError):
    """The processor's int8 kernel overflows; use float32 instead."""


class Int8Scan:
    """Int8 rows, scanned on `threads`. One query at a time; calls from several threads wait for each other.

    Raises `InexactProducts` for a processor on which it would not be right.
    """

    def __init__(self, blocks: Iterator[Bytes], *, threads: int) -> None:
        core, settings = openvino_core(), compile_settings("f32", threads)
        self._lock = threading.Lock()
        self._parts: list[tuple[int, Any]] = []
        self.count = 0
        for rows in blocks:
            request = core.compile_model(_graph(rows), "CPU", settings).create_infer_request()
            _require_exact(request, rows)
            self._parts.append((len(rows), request))
            self.count += len(rows)

    def products(self, query: Bytes) -> Vector:
        """Return the products of int8 `[d]` with every row, float32 `[n]`: whole numbers, exact up to `MAX_EXACT`."""
        found = np.empty(self.count, np.float32)
        feed, start = [query.astype(np.float32)[None]], 0
        with self._lock:
            for size, request in self._parts:
                found[start : start + size] = _infer(request, feed)
                start += size
        return found


def _graph(rows: Bytes) -> ov.Model:
    query = ops.parameter([1, rows.shape[1]], np.float32)
    low, high = np.float32(-128), np.float32(127)
    whole = ops.fake_quantize(query, low, high, low, high, 256)
    weights = ops.multiply(ops.convert(ops.constant(rows, shared_memory=True), np.float32), np.float32(1))
    return ov.Model([ops.matmul(whole, weights, False, True)], [query], "scan")


def _infer(request: Any, feed: list[Vector]) -> Vector:
    found: Any = request.infer(feed, share_inputs=True, share_outputs=True)[0]
    row: Vector = np.asarray(found)[0]
    return row


def _require_exact(request: Any, rows: Bytes) -> None:
    """Raise `InexactProducts` where products are not the integers they should be.

    Processors without dot products of bytes add pairs in 16 bits, which the largest numbers overflow.
    """
    few = rows[:256].astype(np.int64)
    draw = np.random.default_rng(0)
    # The last one meets the first row at its worst.
    probes = (draw.integers(-127, 128, (rows.shape[1],)), np.full(rows.shape[1], 127), np.where(few[0] < 0, -127, 127))
    for probe in probes:
        wanted = few @ probe
        found = _infer(request, [probe.astype(np.float32)[None]])[: len(few)]
        if np.abs(found - wanted).max() > np.abs(wanted).max() / MAX_EXACT:
            raise InexactProducts("int8 products are not exact on this processor")
