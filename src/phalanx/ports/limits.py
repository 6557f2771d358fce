"""Rates, quotas and permits, and who shares them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol


class RatePolicy(NamedTuple):
    """A GCRA limit: `per_minute` requests sustained, `burst` at once after a pause (0 counts as 1)."""

    per_minute: int
    burst: int


class RateDecision(NamedTuple):
    """What the limiter said. Seconds are relative to now; `remaining` is how many calls would pass at once."""

    allowed: bool
    limit: int
    remaining: int
    reset_after_s: float
    retry_after_s: float


class QuotaDecision(NamedTuple):
    """Whether a reservation fits: `used` counts what is settled and reserved, this one included if allowed."""

    allowed: bool
    used: int
    limit: int


class Allowance(NamedTuple):
    """What a subject may do; None is no limit. `monthly` requests are hard, `concurrent` are calls open at once."""

    rate: RatePolicy | None = None
    monthly: int | None = None
    concurrent: int | None = None


NO_LIMIT = Allowance()


class Grant(NamedTuple):
    """What the limiter said of one call, and what it needs to know when the call ends.

    `refused` names the window that was full, or is empty; then every window was taken. `lease` is the call's own id.
    """

    subject: str
    period: str
    lease: str
    allowance: Allowance
    refused: Literal["", "rate", "concurrency", "quota"] = ""
    rate: RateDecision | None = None
    quota: QuotaDecision | None = None
    retry_after_s: float = 0.0
    degraded: bool = False


class Limiter(Protocol):
    """Rate, calls open at once and the month's quota of a subject: one atomic step, all windows or none.

    Down: `unavailable`; `services/metering/limits.py` then goes on with each worker's share.
    """

    async def take(self, subject: str, allowance: Allowance, *, period: str, lease: str) -> Grant:
        """Take one request of the rate, of the calls open at once and of the month's quota, or nothing of them.

        The rate comes first, the permit second: a grant that is refused says nothing of the windows behind. Raises
        `ValueError` for a rate below 1 a minute and a negative burst.
        """
        ...

    async def settle(self, grant: Grant, *, billed: bool) -> None:
        """Give back a granted call's permit, and, unless it is billed, its quota. Never raises; a second time does nothing."""
        ...

    async def used(self, subject: str, period: str) -> int:
        """Return what is settled and reserved of a month's quota."""
        ...

    async def fill(self, period: str, used: Mapping[str, int]) -> None:
        """Set the settled counts of a month to what the ledger says, where that is more."""
        ...


class SharedLimiter(Limiter, Protocol):
    """A `Limiter` that all workers share. It may be out of reach, and come back with its counters or without.

    Each call that was let in holds a lease on its permit and its quota, which runs out when its worker is gone.
    """

    async def renew(self) -> None:
        """Prolong the leases of calls under way, and see that the counters can be used. Raises `Unavailable`."""
        ...

    def charge(self, subject: str, period: str, count: int) -> None:
        """Count quota that was used without asking here. It reaches the counters once, when they can be reached.

        What was charged, or taken, before the counters were lost is dropped: they are filled from the ledger then.
        """
        ...

    async def flush(self) -> None:
        """Bring what was settled and charged into the counters. Raises `Unavailable`; nothing is lost then."""
        ...

    async def is_counting(self) -> bool:
        """Whether the counters are whole. False after they were lost: `fill` them and call `begin_counting`."""
        ...

    async def claim_rebuild(self) -> bool:
        """Whether it is for this worker to fill lost counters; no other one is told so for half a minute."""
        ...

    async def begin_counting(self) -> None:
        """Declare the counters whole."""
        ...

    async def close(self) -> None:
        """Flush what can be flushed and let go of the connection. Never raises."""
        ...


class Workers(Protocol):
    """Which workers live, by heartbeats. Down: the latest count stays."""

    async def beat(self, worker_id: str) -> int:
        """Say that this worker lives and return how many do, this one included. Raises `Unavailable`."""
        ...

    async def leave(self, worker_id: str) -> None:
        """Say that this worker goes. Never raises."""
        ...
