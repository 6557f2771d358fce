"""Rows about the audit log."""

from __future__ import annotations

from phalanx.contract import audit
from phalanx.operations.row import Body, Operation

AUDIT: tuple[Operation, ...] = (
    Operation(
        name="audit.list", request=audit.ListAuditRequest, response=audit.ListAuditResponse, scope="admin",
        http="GET /v1/audit", grpc="Audit/List", bodies=(Body.NONE,), run=lambda s, t, r: s.audit.list(t, r),
        summary="Read the log of administrative acts, newest first.", metered=False, examples=({},),
    ),
)  # fmt: skip
