"""The canonical error envelope: RFC 9457 problem details."""

from __future__ import annotations

from typing import Any

import msgspec

from phalanx.errors import PhalanxError

PROBLEM_JSON = "application/problem+json"


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """RFC 9457: `type` leads to the page of errors, `code` is the stable name, `request_id` leads to the log."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    param: str | None = None


def problem_of(error: PhalanxError, request_id: str) -> Problem:
    """Return the problem document of an error."""
    row = error.row
    return Problem(
        type=f"/docs#{row.code}", title=row.code.replace("_", " ").capitalize(), status=row.http,
        detail=error.detail, code=row.code, request_id=request_id, param=error.param,
    )  # fmt: skip


def problem_body(error: PhalanxError, request_id: str) -> Any:
    """Return the body of the canonical envelope. The envelope of a route is a function of this form."""
    return problem_of(error, request_id)
