"""The limiter in memory: GCRA, permits and the month's quota of each subject."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeVar

from phalanx.ports import Allowance, Clock, Grant, QuotaDecision, RateDecision, RatePolicy
from phalanx.stores.memory.counters import BoundedCounters

MAX_SUBJECTS = 100_000
MAX_QUOTAS = 1_000_000
PERIOD_KEPT_S = 45 * 86_400.0
US_PER_S = 1_000_000
US_PER_MINUTE = 60 * US_PER_S
BUSY_RETRY_S = 1.0

K = TypeVar("K")


class _Lease(NamedTuple):
    """What a call that was let in holds: a permit, or one of a month's quota, or both."""

    subject: str
    period: str
    permit: bool
    quota: bool


class _Pace(NamedTuple):
    """Where a subject stands with its rate, in microseconds: `arrival` is when its whole allowance is back."""

    now: int
    arrival: int
    interval: int
    capacity: int

    @property
    def wait(self) -> int:
        """How long until one more request fits."""
        return max(0, self.arrival + self.interval - self.now - self.interval * self.capacity)

    def decision(self) -> RateDecision:
        """Say how many requests would pass now."""
        remaining = max(0, (self.now + self.interval * self.capacity - self.arrival) // self.interval)
        wait_s = self.wait / US_PER_S
        return RateDecision(not wait_s, self.capacity, remaining, (self.arrival - self.now) / US_PER_S, wait_s)


class MemoryLimiter:
    """A `Limiter` for one process. Rates by the generic cell rate algorithm (ITU-T I.371; in the form of rwz/redis-gcra).

    Kept of a subject's rate is its theoretical arrival time: the instant, in microseconds of the monotonic clock, at
    which its whole allowance is back. A request moves it on by one emission interval, and fits while it stays at most
    `burst` intervals ahead of now. So in any time t at most `burst + floor(t / interval)` requests pass, where a
    burst of 0 counts as 1, or nobody would ever get in. The interval is rounded up to a whole microsecond, never in
    the caller's favour; that costs less than 2 % of any rate up to a million a minute.

    Permits and reservations die with the process, so none needs a lease. Bounded: of more subjects than there is room
    for, those nearest to a full allowance, or that used least, are forgotten; so is a month that nobody touched for 45
    days.
    """

    def __init__(self, clock: Clock, *, max_subjects: int = MAX_SUBJECTS, max_quotas: int = MAX_QUOTAS) -> None:
        self._clock = clock
        self._max_quotas = max_quotas
        self._arrivals = BoundedCounters(max_subjects)
        self._open: dict[str, int] = {}
        self._reserved: dict[tuple[str, str], int] = {}
        self._settled: dict[str, BoundedCounters] = {}
        self._touched: dict[str, float] = {}
        self._leases: dict[str, _Lease] = {}

    async def take(self, subject: str, allowance: Allowance, *, period: str, lease: str) -> Grant:
        """Take one request of the rate, of the calls open at once and of the month's quota, or nothing of them."""
        policy, monthly, concurrent = allowance
        rate = quota = None
        if policy is not None:
            pace = self._pace(subject, policy)
            rate = pace.decision()
            if not rate.allowed:
                return Grant(subject, period, lease, allowance, "rate", rate, None, rate.retry_after_s)
        if concurrent is not None and self._open.get(subject, 0) >= concurrent:
            return Grant(subject, period, lease, allowance, "concurrency", rate, None, BUSY_RETRY_S)
        if monthly is not None:
            used = self._used(subject, period)
            if used >= monthly:
                return Grant(subject, period, lease, allowance, "quota", rate, QuotaDecision(False, used, monthly))
            quota = QuotaDecision(True, used + 1, monthly)
        if policy is not None:
            taken = pace._replace(arrival=pace.arrival + pace.interval)
            self._arrivals.set(subject, taken.arrival)
            rate = taken.decision()._replace(allowed=True, retry_after_s=0.0)
        if concurrent is not None or monthly is not None:
            self._hold(lease, _Lease(subject, period, concurrent is not None, monthly is not None))
        return Grant(subject, period, lease, allowance, "", rate, quota)

    async def settle(self, grant: Grant, *, billed: bool) -> None:
        """Give back a granted call's permit, and, unless it is billed, its quota."""
        lease = self._leases.pop(grant.lease, None)
        if lease is None:
            return
        if lease.permit:
            _lower(self._open, lease.subject)
        if lease.quota:
            _lower(self._reserved, (lease.period, lease.subject))
            if billed:
                settled = self._counters(lease.period)
                settled.set(lease.subject, settled.get(lease.subject, 0) + 1)

    async def used(self, subject: str, period: str) -> int:
        """Return what is settled and reserved of a month's quota."""
        return self._used(subject, period)

    async def fill(self, period: str, used: Mapping[str, int]) -> None:
        """Set the settled counts of a month to what the ledger says, where that is more."""
        settled = self._counters(period)
        for subject, count in used.items():
            settled.set(subject, max(count, settled.get(subject, 0)))

    def _pace(self, subject: str, policy: RatePolicy) -> _Pace:
        per_minute, burst = policy
        if per_minute < 1 or burst < 0:
            raise ValueError(f"{policy}: per_minute is at least 1, burst at least 0")
        now = round(self._clock.monotonic() * US_PER_S)
        arrival = max(self._arrivals.get(subject, now), now)
        return _Pace(now, arrival, -(-US_PER_MINUTE // per_minute), burst or 1)

    def _used(self, subject: str, period: str) -> int:
        return self._counters(period).get(subject, 0) + self._reserved.get((period, subject), 0)

    def _hold(self, name: str, lease: _Lease) -> None:
        self._leases[name] = lease
        if lease.permit:
            self._open[lease.subject] = self._open.get(lease.subject, 0) + 1
        if lease.quota:
            month = (lease.period, lease.subject)
            self._reserved[month] = self._reserved.get(month, 0) + 1

    def _counters(self, period: str) -> BoundedCounters:
        now = self._clock.now()
        if period not in self._settled:
            for old in [name for name, touched in self._touched.items() if now - touched >= PERIOD_KEPT_S]:
                del self._settled[old], self._touched[old]
            self._settled[period] = BoundedCounters(self._max_quotas)
        self._touched[period] = now
        return self._settled[period]


def _lower(counts: dict[K, int], key: K) -> None:
    left = counts[key] - 1
    if left:
        counts[key] = left
    else:
        del counts[key]
