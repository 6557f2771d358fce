"""The usage ledger in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from phalanx.contract.usage import UsageEvent, UsageTotals

OK = "ok"


class MemoryUsageLog:
    """A `UsageLog` that keeps every event for as long as it lives: a ledger forgets nothing, so it has no bound.

    A serving worker keeps its ledger in a database; this one is for tests and for a process that ends soon.
    """

    def __init__(self) -> None:
        self._events: dict[str, UsageEvent] = {}

    async def record(self, events: Sequence[UsageEvent]) -> int:
        """Append events; ids that are there already change nothing. Returns how many were new."""
        before = len(self._events)
        for event in events:
            self._events.setdefault(event.id, event)
        return len(self._events) - before

    async def totals(self, *, organisation: str | None = None, since: float = 0.0, until: float = 1e12) -> UsageTotals:
        """Sum the events with `since <= at < until` (epoch seconds), of one organisation or of all."""
        wanted = [
            event
            for event in self._events.values()
            if since <= event.at < until and (organisation is None or event.organisation == organisation)
        ]
        return UsageTotals(
            requests=len(wanted),
            units=sum(event.units for event in wanted),
            tokens=sum(event.tokens for event in wanted),
            cached=sum(event.cached for event in wanted),
            errors=sum(event.status != OK for event in wanted),
        )

    async def requests_by_organisation(self, *, since: float) -> dict[str, int]:
        """Count the billable requests, which are those that went well, with `since <= at` (epoch seconds)."""
        events = self._events.values()
        return dict(Counter(event.organisation for event in events if event.at >= since and event.status == OK))

    async def ping(self) -> None:
        """Return at once: memory is never down."""

    async def close(self) -> None:
        """Give back nothing: there is nothing to give."""
