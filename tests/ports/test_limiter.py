"""What every `RateLimiter` does, against a model that says the same in another way: a token bucket in fractions."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phalanx.ports import Clock, RateLimiter, RatePolicy
from phalanx.stores.memory.limiter import MemoryRateLimiter

if TYPE_CHECKING:
    from tests.ports.conftest import HandClock

pytestmark = pytest.mark.anyio
MakeLimiter = Callable[[Clock], RateLimiter]
SIXTY = RatePolicy(per_minute=60, burst=20)


@pytest.fixture(params=["memory"])
def make_limiter() -> MakeLimiter:
    return MemoryRateLimiter


@pytest.fixture
def limiter(make_limiter: MakeLimiter, clock: HandClock) -> RateLimiter:
    return make_limiter(clock)


async def test_a_burst_passes_at_once_and_the_next_call_waits_one_interval(
    limiter: RateLimiter, clock: HandClock
) -> None:
    for taken in range(1, 21):
        decision = await limiter.take("a", SIXTY)
        assert decision == (True, 20, 20 - taken, float(taken), 0.0)
    refused = await limiter.take("a", SIXTY)
    assert refused == (False, 20, 0, 20.0, 1.0)
    clock.advance(1.0)
    assert (await limiter.take("a", SIXTY)).allowed
    assert not (await limiter.take("a", SIXTY)).allowed


async def test_a_refused_call_costs_nothing(limiter: RateLimiter, clock: HandClock) -> None:
    for _ in range(20):
        await limiter.take("a", SIXTY)
    for _ in range(50):
        assert (await limiter.take("a", SIXTY)).retry_after_s == 1.0
    clock.advance(1.0)
    assert (await limiter.take("a", SIXTY)).allowed


async def test_a_cost_is_taken_whole_or_not_at_all(limiter: RateLimiter, clock: HandClock) -> None:
    assert (await limiter.take("a", SIXTY, cost=15)).remaining == 5
    refused = await limiter.take("a", SIXTY, cost=6)
    assert (refused.allowed, refused.remaining, refused.retry_after_s) == (False, 5, 1.0)
    assert (await limiter.take("a", SIXTY, cost=5)).remaining == 0


async def test_idle_time_gives_back_no_more_than_the_burst(limiter: RateLimiter, clock: HandClock) -> None:
    await limiter.take("a", SIXTY)
    clock.advance(86_400.0)
    passed = [(await limiter.take("a", SIXTY)).allowed for _ in range(30)]
    assert sum(passed) == 20


async def test_subjects_do_not_touch_each_other(limiter: RateLimiter) -> None:
    for _ in range(20):
        await limiter.take("a", SIXTY)
    assert (await limiter.take("b", SIXTY)).remaining == 19


async def test_a_burst_of_zero_lets_one_call_in_at_a_time(limiter: RateLimiter, clock: HandClock) -> None:
    strict = RatePolicy(per_minute=60, burst=0)
    assert (await limiter.take("a", strict)).allowed
    assert not (await limiter.take("a", strict)).allowed
    clock.advance(1.0)
    assert (await limiter.take("a", strict)).allowed


async def test_a_new_policy_counts_from_where_the_old_one_was(limiter: RateLimiter) -> None:
    for _ in range(20):
        await limiter.take("a", SIXTY)
    # Twenty seconds are owed. At ten a second, with room for 300, that is 200 calls.
    assert (await limiter.take("a", RatePolicy(per_minute=600, burst=300))).remaining == 99


async def test_many_callers_at_once_pass_exactly_the_burst(limiter: RateLimiter) -> None:
    decisions = await asyncio.gather(*(limiter.take("a", SIXTY) for _ in range(500)))
    assert sum(decision.allowed for decision in decisions) == 20


@pytest.mark.parametrize(
    ("policy", "cost"),
    [(RatePolicy(0, 5), 1), (RatePolicy(60, -1), 1), (SIXTY, 0), (SIXTY, 21), (RatePolicy(60, 0), 2)],
)
async def test_what_could_never_pass_is_an_error(limiter: RateLimiter, policy: RatePolicy, cost: int) -> None:
    with pytest.raises(ValueError, match="at least"):
        await limiter.take("a", policy, cost=cost)


class TokenBucket:
    """A bucket of `burst` tokens that fills continuously, in exact fractions. Times are whole microseconds."""

    def __init__(self, policy: RatePolicy) -> None:
        self.capacity = policy.burst or 1
        self.interval = Fraction(-(-60_000_000 // policy.per_minute))
        self.level = Fraction(self.capacity)
        self.filled_at = 0

    def take(self, now: int, cost: int) -> tuple[bool, int, Fraction, Fraction]:
        """Return allowed, whole tokens left, µs until full, µs until this cost would fit."""
        self.level = min(Fraction(self.capacity), self.level + (now - self.filled_at) / self.interval)
        self.filled_at = now
        allowed = self.level >= cost
        if allowed:
            self.level -= cost
        wait = Fraction(0) if allowed else (cost - self.level) * self.interval
        return allowed, int(self.level), (self.capacity - self.level) * self.interval, wait


policies = st.builds(RatePolicy, per_minute=st.integers(1, 10_000_000), burst=st.integers(0, 50))
gaps_us = st.one_of(st.just(0), st.integers(0, 2_000), st.integers(0, 5_000_000), st.integers(0, 3_600_000_000))


# The fixtures are a factory only, so nothing of one example reaches the next.
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(policy=policies, steps=st.lists(st.tuples(gaps_us, st.integers(1, 50)), max_size=60))
def test_every_decision_is_that_of_the_token_bucket(
    make_limiter: MakeLimiter, policy: RatePolicy, steps: list[tuple[int, int]]
) -> None:
    clock, model = MicrosecondClock(), TokenBucket(policy)
    limiter = make_limiter(clock)

    async def scenario() -> None:
        for gap, wanted in steps:
            cost = min(wanted, model.capacity)
            clock.us += gap
            decision = await limiter.take("a", policy, cost=cost)
            allowed, remaining, reset, wait = model.take(clock.us, cost)
            assert decision[:3] == (allowed, model.capacity, remaining)
            assert round(decision.reset_after_s * 1e6) == reset
            assert round(decision.retry_after_s * 1e6) == wait

    asyncio.run(scenario())


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(policy=policies, gaps=st.lists(gaps_us, min_size=1, max_size=80))
def test_in_any_window_no_more_pass_than_the_burst_and_the_rate(
    make_limiter: MakeLimiter, policy: RatePolicy, gaps: list[int]
) -> None:
    clock = MicrosecondClock()
    limiter = make_limiter(clock)
    passed: list[int] = []

    async def scenario() -> None:
        for gap in gaps:
            clock.us += gap
            while (await limiter.take("a", policy)).allowed:
                passed.append(clock.us)

    asyncio.run(scenario())
    assert passed
    for (first, start), (last, end) in itertools.combinations(enumerate(passed), 2):
        assert last - first + 1 <= (policy.burst or 1) + (end - start) * policy.per_minute // 60_000_000


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(policy=policies, cost=st.integers(1, 50))
def test_whoever_waits_as_long_as_told_gets_in_and_no_microsecond_earlier(
    make_limiter: MakeLimiter, policy: RatePolicy, cost: int
) -> None:
    clock = MicrosecondClock()
    limiter = make_limiter(clock)
    cost = min(cost, policy.burst or 1)

    async def scenario() -> None:
        while (decision := await limiter.take("a", policy, cost=cost)).allowed:
            pass
        wait = round(decision.retry_after_s * 1e6)
        assert wait >= 1
        clock.us += wait - 1
        assert not (await limiter.take("a", policy, cost=cost)).allowed
        clock.us += 1
        assert (await limiter.take("a", policy, cost=cost)).allowed

    asyncio.run(scenario())


class MicrosecondClock:
    """A clock in whole microseconds, so that no rounding of ours blurs the comparison."""

    def __init__(self) -> None:
        self.us = 0

    def now(self) -> float:
        return self.us / 1e6

    def monotonic(self) -> float:
        return self.us / 1e6
