"""The usage ledger in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter

from phalanx.contract.usage import OK, UsageEvent, UsageRow, UsageTotals
from phalanx.ports import Books, SumKey, UsageQuery
from phalanx.stores.days import DAY_S, day_at, day_of

SUMS = UsageTotals.__struct_fields__
NOTHING = UsageTotals()
_key_of = attrgetter(*SumKey._fields)


class MemoryUsageLog:
    """A `UsageLedger` that keeps every event for as long as it lives, unless told to let go: it has no bound.

    A serving worker keeps its ledger in a database; this one is for tests and for a process that ends soon. `now` gives
    epoch seconds.
    """

    is_shared = False

    def __init__(self, *, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._events: dict[str, UsageEvent] = {}
        self._sums: dict[str, dict[SumKey, UsageTotals]] = {}
        self._expired: set[str] = set()

    async def record(self, events: Sequence[UsageEvent]) -> int:
        """Append events; ids that are there already change nothing. Returns how many were new."""
        before = len(self._events)
        for event in events:
            if event.id not in self._events:
                self._events[event.id] = event
                sums, key = self._sums.setdefault(day_of(event), {}), SumKey(*_key_of(event))
                sums[key] = _add(sums.get(key, NOTHING), _one(event))
        return len(self._events) - before

    async def totals(self, *, organisation: str | None = None, since: float = 0.0, until: float = 1e12) -> UsageTotals:
        """Sum the events with `since <= at < until` (epoch seconds), of one organisation or of all."""
        return _sum(
            _one(event)
            for event in self._events.values()
            if since <= event.at < until and organisation in (None, event.organisation)
        )

    async def report(self, query: UsageQuery) -> list[UsageRow]:
        """Read the daily sums, grouped, in the groups' order."""
        groups: dict[str, UsageTotals] = {}
        for day, sums in self._sums.items():
            for key, totals in sums.items():
                if query.since <= day <= query.until and query.organisation in (None, key.organisation):
                    name = {"day": day, "key": key.key_id, "operation": key.operation, "model": key.model}[query.by]
                    groups[name] = _add(groups.get(name, NOTHING), totals)
        return [UsageRow(group=name, **_fields(groups[name])) for name in sorted(groups)]

    async def requests_by_organisation(self, *, since: float) -> dict[str, int]:
        """Count the billed requests of the days from that of `since` (epoch seconds) on."""
        counts: dict[str, int] = {}
        for day, sums in self._sums.items():
            for key, totals in sums.items():
                if day >= day_at(since) and totals.billed:
                    counts[key.organisation] = counts.get(key.organisation, 0) + totals.billed
        return counts

    async def complete_until(self, *, besides: str = "") -> float:
        """Return now: what is recorded is here at once."""
        return self._now()

    async def announce(self, journal: str, complete_until: float) -> None:
        """Do nothing: nobody else reads this ledger."""

    async def dismiss(self, journals: Iterable[str]) -> None:
        """Do nothing, as `announce`."""

    async def days(self) -> list[str]:
        """Return the days that have events or sums, in order, without those whose events were let go."""
        return sorted((self._sums.keys() | {day_of(event) for event in self._events.values()}) - self._expired)

    async def books(self, day: str) -> Books:
        """Return both books of a day."""
        return Books(self._sum_up(day), dict(self._sums.get(day, {})))

    async def repair(self, day: str) -> None:
        """Make the sums of a day anew from its events."""
        self._sums[day] = self._sum_up(day)

    async def expire(self, days: int) -> int:
        """Let go of the events of days more than `days` days ago. Returns how many days went; their sums stay."""
        first = day_at(self._now() - days * DAY_S)
        gone = {day for day in self._sums if day < first} - self._expired
        self._expired |= gone
        self._events = {name: event for name, event in self._events.items() if day_of(event) >= first}
        return len(gone)

    async def ping(self) -> None:
        """Return at once: memory is never down."""

    async def close(self) -> None:
        """Give back nothing: there is nothing to give."""

    def _sum_up(self, day: str) -> dict[SumKey, UsageTotals]:
        found: dict[SumKey, UsageTotals] = {}
        for event in self._events.values():
            if day_of(event) == day:
                key = SumKey(*_key_of(event))
                found[key] = _add(found.get(key, NOTHING), _one(event))
        return found


def _one(event: UsageEvent) -> UsageTotals:
    well = event.status == OK
    return UsageTotals(
        requests=1, billed=well if event.billed is None else event.billed, units=event.units, tokens=event.tokens,
        cached=event.cached, errors=not well,
    )  # fmt: skip


def _add(left: UsageTotals, right: UsageTotals) -> UsageTotals:
    return UsageTotals(**{name: getattr(left, name) + getattr(right, name) for name in SUMS})


def _sum(totals: Iterable[UsageTotals]) -> UsageTotals:
    found = NOTHING
    for one in totals:
        found = _add(found, one)
    return found


def _fields(totals: UsageTotals) -> dict[str, int]:
    return {name: getattr(totals, name) for name in SUMS}
