"""The ledger of usage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from phalanx.contract.usage import GroupBy, UsageEvent, UsageRow, UsageTotals


class UsageQuery(NamedTuple):
    """What to sum: days `since` to `until` (`2026-11-21`, both counted), of one organisation or, with None, of all."""

    since: str
    until: str
    organisation: str | None
    by: GroupBy


class SumKey(NamedTuple):
    """What a daily sum is kept for, within its day."""

    organisation: str
    key_id: str
    operation: str
    model: str


class Books(NamedTuple):
    """One day twice over: summed up from its events, and as the daily sums have it. They agree unless something broke."""

    events: dict[SumKey, UsageTotals]
    sums: dict[SumKey, UsageTotals]


class UsageLog(Protocol):
    """The ledger: one event an admitted call, idempotent on the event's id. Down: `unavailable`, nothing is half written.

    Beside the events stand daily sums, moved in the same transaction and only by events that were new. Days are UTC, by
    the instant inside the id.
    """

    async def record(self, events: Sequence[UsageEvent]) -> int:
        """Append events; ids that are there already change nothing. Returns how many were new."""
        ...

    async def totals(self, *, organisation: str | None = None, since: float = 0.0, until: float = 1e12) -> UsageTotals:
        """Sum the events with `since <= at < until` (epoch seconds), of one organisation or of all."""
        ...

    async def report(self, query: UsageQuery) -> list[UsageRow]:
        """Read the daily sums, grouped, in the groups' order."""
        ...

    async def requests_by_organisation(self, *, since: float) -> dict[str, int]:
        """Count the billed requests since an instant, which is a day's first, from the daily sums: what quotas count."""
        ...

    async def complete_until(self) -> float:
        """Return the instant (epoch seconds) before which every event of every worker is in the ledger."""
        ...

    async def ping(self) -> None:
        """Return when the ledger answers; raise `Unavailable` when it does not."""
        ...

    async def close(self) -> None:
        """Give back what the adapter holds, what is not written yet first."""
        ...


class UsageLedger(UsageLog, Protocol):
    """A `UsageLog` with what keeps it in order. Down: `unavailable`."""

    async def days(self) -> list[str]:
        """Return the days that have events or sums, in order, without those whose events were let go."""
        ...

    async def books(self, day: str) -> Books:
        """Return both books of a day as of one moment."""
        ...

    async def repair(self, day: str) -> None:
        """Make the sums of a day anew from its events, in one transaction."""
        ...

    async def expire(self, days: int) -> int:
        """Let go of the events of days more than `days` days ago, and return how many days went. Their sums stay.

        A day goes only once the ledger is complete beyond it, so that no journal can bring one of its events again.
        """
        ...
