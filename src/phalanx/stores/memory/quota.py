"""Quota counters in memory."""

from __future__ import annotations

from phalanx.ports import Clock, QuotaDecision
from phalanx.stores.memory.counters import BoundedCounters

MAX_SUBJECTS = 1_000_000
PERIOD_KEPT_S = 45 * 86_400.0


class _Period:
    __slots__ = ("touched_at", "used")

    def __init__(self, max_subjects: int) -> None:
        self.used = BoundedCounters(max_subjects)
        self.touched_at = 0.0


class MemoryQuotaStore:
    """A `QuotaStore` over one counter a subject and period. Reservations die with the process, so none has a lease.

    Bounded: a period that nobody touched for 45 days is over and forgotten, and of more than a million subjects in
    one period (anonymous addresses, in practice) those that used least lose their count.
    """

    def __init__(self, clock: Clock, *, max_subjects: int = MAX_SUBJECTS) -> None:
        self._clock = clock
        self._max_subjects = max_subjects
        self._periods: dict[str, _Period] = {}

    async def reserve(self, subject: str, period: str, amount: int, *, limit: int | None) -> QuotaDecision:
        """Add `amount` to a counter unless that passes `limit` (None: no limit). All or none.

        Without a limit, the decision's `limit` is -1. Raises ValueError when the amount is negative.
        """
        if amount < 0:
            raise ValueError(f"the amount to reserve is {amount}; it is 0 or more")
        counters = self._counters(period)
        used = counters.get(subject, 0)
        if limit is not None and used + amount > limit:
            return QuotaDecision(False, used, limit)
        counters.set(subject, used + amount)
        return QuotaDecision(True, used + amount, -1 if limit is None else limit)

    async def settle(self, subject: str, period: str, *, reserved: int, actual: int) -> None:
        """Replace a reservation by what was really used; `actual=0` gives it back."""
        counters = self._counters(period)
        used = max(0, counters.get(subject, 0) + actual - reserved)
        if used:
            counters.set(subject, used)
        else:
            counters.discard(subject)

    def _counters(self, period: str) -> BoundedCounters:
        now = self._clock.now()
        found = self._periods.get(period)
        if found is None:
            self._periods = {
                name: kept for name, kept in self._periods.items() if now - kept.touched_at < PERIOD_KEPT_S
            }
            found = self._periods[period] = _Period(self._max_subjects)
        found.touched_at = now
        return found.used
