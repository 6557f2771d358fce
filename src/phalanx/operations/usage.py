"""Rows about usage."""

from __future__ import annotations

from phalanx.contract import usage
from phalanx.operations.row import Body, Operation

USAGE: tuple[Operation, ...] = (
    Operation(
        name="usage.report", request=usage.UsageReportRequest, response=usage.UsageReportResponse, scope="usage",
        http="GET /v1/usage", grpc="Usage/Report", bodies=(Body.NONE,), metered=False,
        run=lambda s, t, r: s.usage.report(t, r), summary="Sum up usage by day, key, operation or model.",
        examples=({}, {"by": "operation"}),
    ),
)  # fmt: skip
