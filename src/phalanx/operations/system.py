"""Rows about the worker itself."""

from __future__ import annotations

from phalanx.contract import status
from phalanx.operations.row import Body, Operation

SYSTEM: tuple[Operation, ...] = (
    Operation(
        name="system.status", metered=False, request=status.StatusRequest, response=status.StatusResponse, scope="admin",
        http="GET /api/status", grpc="System/Status", bodies=(Body.NONE,), run=lambda s, t, r: s.health.status(t, r),
        summary="Show counts, latencies, queues and memory of this worker.", examples=({},),
    ),
)  # fmt: skip
