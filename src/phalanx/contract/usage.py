"""Usage: the billable event of one admitted call, and sums over such events."""

from __future__ import annotations

from msgspec import Struct


class UsageEvent(Struct, frozen=True, kw_only=True):
    """One admitted call. `id` is a UUIDv7; `at` epoch seconds; `status` the error table's code or `ok`.

    A field added later needs a default, or journals of an older version do not decode.
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


class UsageTotals(Struct, frozen=True, kw_only=True):
    """Sums over events."""

    requests: int = 0
    units: int = 0
    tokens: int = 0
    cached: int = 0
    errors: int = 0
