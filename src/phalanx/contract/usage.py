"""Usage: the billable event of one admitted call, sums over such events, and reports."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

GroupBy = Literal["day", "key", "operation", "model"]
Day = Annotated[str, Meta(pattern=r"^\d{4}-\d{2}-\d{2}$")]
"""A day in UTC, `2026-11-21`."""
OK = "ok"
"""The status of a call that did not fail."""


class UsageEvent(Struct, frozen=True, kw_only=True):
    """One admitted call. `id` is a UUIDv7; `at` epoch seconds; `status` the error table's code or `ok`.

    `request_id` is the answer's X-Request-Id, by which a caller finds the call. `billed` says whether the call counts as a
    request of the quota (None in journals older than the field: as `ok`). A field added later needs a default, or journals
    of an older version do not decode.
    """

    id: str
    at: float
    organisation: str
    key_id: str
    operation: str
    unit: str
    units: int
    tokens: int
    cached: int
    model: str
    status: str
    latency_ms: float
    user_id: str = ""
    request_id: str = ""
    billed: bool | None = None
    simulated: bool = False


class UsageTotals(Struct, frozen=True, kw_only=True):
    """Sums over events: all `requests`, those `billed`, those that failed (`errors`)."""

    requests: int = 0
    billed: int = 0
    units: int = 0
    tokens: int = 0
    cached: int = 0
    errors: int = 0


class UsageRow(Struct, frozen=True, kw_only=True):
    """One line of a report: the group's name and its sums."""

    group: str
    requests: int
    billed: int
    units: int
    tokens: int
    cached: int
    errors: int


class UsageReportRequest(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"since": "from", "until": "to"}
):
    """Ask for usage from one day to another, both in UTC and both counted; this month until now unless given.

    `organisation` is for administrators of the installation, `*` being all; others see their own.
    """

    since: Day | None = None
    until: Day | None = None
    by: GroupBy = "day"
    organisation: str | None = None


class UsageReportResponse(Struct, frozen=True, kw_only=True, rename={"since": "from", "until": "to"}):
    """Exact usage. Every call that began before `complete_until` (epoch seconds) is in it."""

    organisation: str
    since: str
    until: str
    by: str
    rows: list[UsageRow] = field(default_factory=list)
    total: UsageTotals = field(default_factory=UsageTotals)
    complete_until: float = 0.0
