"""The rate limiter in memory: GCRA, one integer a subject."""

from __future__ import annotations

from phalanx.ports import Clock, RateDecision, RatePolicy
from phalanx.stores.memory.counters import BoundedCounters

MAX_SUBJECTS = 100_000
US_PER_S = 1_000_000
US_PER_MINUTE = 60 * US_PER_S


class MemoryRateLimiter:
    """A `RateLimiter` by the generic cell rate algorithm (ITU-T I.371; in the form of rwz/redis-gcra).

    Kept of a subject is its theoretical arrival time: the instant, in microseconds of the monotonic clock, at which
    its whole allowance is back. A request moves it on by one emission interval, and fits while it stays at most
    `burst` intervals ahead of now. So in any time t at most `burst + floor(t / interval)` requests pass, where a
    burst of 0 counts as 1, or nobody would ever get in. The interval is rounded up to a whole microsecond, never in
    the caller's favour; that costs less than 2 % of any rate up to a million a minute.
    """

    def __init__(self, clock: Clock, *, max_subjects: int = MAX_SUBJECTS) -> None:
        self._clock = clock
        self._arrivals = BoundedCounters(max_subjects)

    async def take(self, subject: str, policy: RatePolicy, *, cost: int = 1) -> RateDecision:
        """Take `cost` requests of a subject's rate, all or none. `limit` is what fits at once.

        Raises ValueError when `per_minute` is not positive, `burst` negative, or the cost could never be met.
        """
        per_minute, burst = policy
        capacity = burst or 1
        if per_minute < 1 or burst < 0 or not 1 <= cost <= capacity:
            raise ValueError(
                f"cost {cost} of {policy}: per_minute is at least 1, burst at least 0, cost 1 to {capacity}"
            )
        interval = -(-US_PER_MINUTE // per_minute)
        now = round(self._clock.monotonic() * US_PER_S)
        arrival = max(self._arrivals.get(subject, now), now)
        moved = arrival + interval * cost
        latest = now + interval * capacity
        if moved > latest:
            left = (latest - arrival) // interval
            return RateDecision(False, capacity, left, (arrival - now) / US_PER_S, (moved - latest) / US_PER_S)
        self._arrivals.set(subject, moved)
        return RateDecision(True, capacity, (latest - moved) // interval, (moved - now) / US_PER_S, 0.0)
