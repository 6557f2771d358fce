"""What every `Limiter` does, with a model of the rate that says the same in another way: a token bucket in fractions."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from fractions import Fraction
from typing import NamedTuple, Protocol

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from phalanx.ports import Allowance, Grant, Limiter, QuotaDecision, RateDecision, RatePolicy
from phalanx.stores.memory.clock import SystemClock
from phalanx.stores.memory.limiter import MemoryLimiter
from phalanx.stores.redis import limiter as in_redis
from phalanx.stores.redis.client import open_redis
from phalanx.stores.redis.limiter import RedisLimiter
from phalanx.stores.redis.scripts import Script
from servers import RedisServer

pytestmark = pytest.mark.anyio
NOVEMBER, DECEMBER = "2026-11", "2026-12"
SIXTY = RatePolicy(per_minute=60, burst=20)
START_US = 1_790_000_000_000_000
SECOND = 1_000_000


class HandTime(Protocol):
    """A limiter's time, which stands still until a test moves it."""

    async def advance(self, us: int) -> None:
        """Move on by whole microseconds, so that no rounding of ours blurs a comparison."""


class Scene(NamedTuple):
    """A limiter and its time."""

    limiter: Limiter
    time: HandTime
    leases: Iterator[int] = itertools.count()

    async def take(self, allowance: Allowance, subject: str = "a", *, period: str = NOVEMBER) -> Grant:
        lease = f"call-{next(self.leases)}"
        return await self.limiter.take(subject, allowance, period=period, lease=lease)


OpenScene = Callable[[], AbstractAsyncContextManager[Scene]]


class MemoryTime:
    def __init__(self) -> None:
        self.us = 0

    async def advance(self, us: int) -> None:
        self.us += us

    def now(self) -> float:
        return self.us / 1e6

    def monotonic(self) -> float:
        return self.us / 1e6


class RedisTime:
    """Redis's time as its scripts see it here: two keys."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._us = START_US

    async def advance(self, us: int) -> None:
        self._us += us
        await self._redis.mset({"seconds": self._us // SECOND, "microseconds": self._us % SECOND})


@asynccontextmanager
async def memory_scene() -> AsyncIterator[Scene]:
    time = MemoryTime()
    yield Scene(MemoryLimiter(time), time)


@pytest.fixture(scope="module")
def redis_scene(redis_server: RedisServer) -> Iterator[OpenScene]:
    @asynccontextmanager
    async def open_scene() -> AsyncIterator[Scene]:
        async with open_redis(redis_server.url) as redis:
            await redis.flushdb()
            time = RedisTime(redis)
            await time.advance(0)
            limiter = RedisLimiter(redis, SystemClock())
            await limiter.begin_counting()
            yield Scene(limiter, time)
            await limiter.close()

    with pytest.MonkeyPatch.context() as patch:
        for name in ("TAKE", "RENEW", "USED"):
            text = getattr(in_redis, name).text
            assert "redis.call('TIME')" in text
            by_hand = text.replace("redis.call('TIME')", "redis.call('MGET', 'seconds', 'microseconds')")
            # Keys still run out by Redis's own time, which goes on while the test's stands still.
            by_hand = by_hand.replace("math.ceil((arrival - now) / 1000)", "3600000")
            patch.setattr(in_redis, name, Script(by_hand))
        yield open_scene


@pytest.fixture(params=["memory", "redis"])
def open_scene(request: pytest.FixtureRequest) -> OpenScene:
    return memory_scene if request.param == "memory" else request.getfixturevalue("redis_scene")


@pytest.fixture
async def scene(open_scene: OpenScene) -> AsyncIterator[Scene]:
    async with open_scene() as scene:
        yield scene


# Rate


async def test_a_burst_passes_at_once_and_the_next_call_waits_one_interval(scene: Scene) -> None:
    for taken in range(1, 21):
        grant = await scene.take(Allowance(SIXTY))
        assert grant.rate == (True, 20, 20 - taken, float(taken), 0.0)
        assert (grant.refused, grant.quota, grant.retry_after_s, grant.degraded) == ("", None, 0.0, False)
    refused = await scene.take(Allowance(SIXTY))
    assert refused.rate == (False, 20, 0, 20.0, 1.0)
    assert (refused.refused, refused.retry_after_s) == ("rate", 1.0)
    await scene.time.advance(SECOND)
    assert not (await scene.take(Allowance(SIXTY))).refused
    assert (await scene.take(Allowance(SIXTY))).refused == "rate"


async def test_a_call_that_the_rate_refuses_costs_nothing(scene: Scene) -> None:
    for _ in range(20):
        await scene.take(Allowance(SIXTY))
    for _ in range(50):
        assert (await scene.take(Allowance(SIXTY))).retry_after_s == 1.0
    await scene.time.advance(SECOND)
    assert not (await scene.take(Allowance(SIXTY))).refused


async def test_idle_time_gives_back_no_more_than_the_burst(scene: Scene) -> None:
    await scene.take(Allowance(SIXTY))
    await scene.time.advance(86_400 * SECOND)
    passed = [not (await scene.take(Allowance(SIXTY))).refused for _ in range(30)]
    assert sum(passed) == 20


async def test_subjects_do_not_touch_each_other(scene: Scene) -> None:
    everything = Allowance(SIXTY, monthly=20, concurrent=20)
    for _ in range(20):
        await scene.take(everything)
    grant = await scene.take(everything, "b")
    assert (grant.rate, grant.quota) == (RateDecision(True, 20, 19, 1.0, 0.0), QuotaDecision(True, 1, 20))


async def test_a_burst_of_zero_lets_one_call_in_at_a_time(scene: Scene) -> None:
    strict = Allowance(RatePolicy(per_minute=60, burst=0))
    assert (await scene.take(strict)).rate == (True, 1, 0, 1.0, 0.0)
    assert (await scene.take(strict)).refused == "rate"
    await scene.time.advance(SECOND)
    assert not (await scene.take(strict)).refused


async def test_a_new_policy_counts_from_where_the_old_one_was(scene: Scene) -> None:
    for _ in range(20):
        await scene.take(Allowance(SIXTY))
    # Twenty seconds are owed. At ten a second, with room for 300, that is 200 calls.
    grant = await scene.take(Allowance(RatePolicy(per_minute=600, burst=300)))
    assert grant.rate is not None
    assert grant.rate.remaining == 99
    # With room for five only, nothing is left, and never less than nothing.
    smaller = (await scene.take(Allowance(RatePolicy(per_minute=60, burst=5)))).rate
    assert smaller is not None
    assert (smaller.allowed, smaller.remaining) == (False, 0)


async def test_many_callers_at_once_pass_exactly_the_burst(scene: Scene) -> None:
    grants = await asyncio.gather(*(scene.take(Allowance(SIXTY)) for _ in range(700)))
    assert sum(not grant.refused for grant in grants) == 20


@pytest.mark.parametrize("policy", [RatePolicy(0, 5), RatePolicy(60, -1)])
async def test_what_could_never_pass_is_an_error(scene: Scene, policy: RatePolicy) -> None:
    with pytest.raises(ValueError, match="at least"):
        await scene.take(Allowance(policy))


# Calls open at once


async def test_as_many_calls_are_open_as_allowed(scene: Scene) -> None:
    two = Allowance(concurrent=2)
    first, second = await scene.take(two), await scene.take(two)
    third = await scene.take(two)
    assert (first.refused, second.refused, third.refused) == ("", "", "concurrency")
    assert third.retry_after_s == 1.0
    await scene.limiter.settle(first, billed=True)
    assert not (await scene.take(two)).refused
    assert (await scene.take(two)).refused == "concurrency"


@pytest.mark.parametrize("billed", [True, False])
async def test_a_permit_comes_back_once(scene: Scene, billed: bool) -> None:
    two = Allowance(concurrent=2)
    first, _ = await scene.take(two), await scene.take(two)
    for _ in range(3):
        await scene.limiter.settle(first, billed=billed)
    assert not (await scene.take(two)).refused
    assert (await scene.take(two)).refused == "concurrency"


async def test_a_refused_call_has_nothing_to_give_back(scene: Scene) -> None:
    one = Allowance(concurrent=1, monthly=9)
    await scene.take(one)
    refused = await scene.take(one)
    await scene.limiter.settle(refused, billed=True)
    assert (await scene.take(one)).refused == "concurrency"
    assert await scene.limiter.used("a", NOVEMBER) == 1


# The month's quota


async def test_a_month_ends_at_its_quota(scene: Scene) -> None:
    five = Allowance(monthly=5)
    for used in range(1, 6):
        assert (await scene.take(five)).quota == (True, used, 5)
    refused = await scene.take(five)
    assert (refused.refused, refused.quota, refused.retry_after_s) == ("quota", QuotaDecision(False, 5, 5), 0.0)
    assert await scene.limiter.used("a", NOVEMBER) == 5
    assert (await scene.take(five, period=DECEMBER)).quota == (True, 1, 5)


async def test_what_is_billed_stays_used_and_the_rest_comes_back(scene: Scene) -> None:
    five = Allowance(monthly=5)
    grants = [await scene.take(five) for _ in range(5)]
    for number, grant in enumerate(grants):
        await scene.limiter.settle(grant, billed=number < 2)
    assert await scene.limiter.used("a", NOVEMBER) == 2
    for number, grant in enumerate(grants):
        await scene.limiter.settle(grant, billed=number >= 2)
    assert await scene.limiter.used("a", NOVEMBER) == 2
    assert (await scene.take(five)).quota == (True, 3, 5)


async def test_a_quota_of_nothing_refuses_every_call(scene: Scene) -> None:
    assert (await scene.take(Allowance(monthly=0))).quota == (False, 0, 0)
    assert (await scene.take(Allowance(concurrent=0))).refused == "concurrency"


async def test_filling_raises_what_is_settled_and_lowers_nothing(scene: Scene) -> None:
    limiter, ten = scene.limiter, Allowance(monthly=10)
    await limiter.fill(NOVEMBER, {"a": 4, "b": 7})
    open_call = await scene.take(ten)
    assert open_call.quota == (True, 5, 10)
    await limiter.fill(NOVEMBER, {"a": 6, "b": 1})
    assert (await limiter.used("a", NOVEMBER), await limiter.used("b", NOVEMBER)) == (7, 7)
    await limiter.settle(open_call, billed=True)
    assert await limiter.used("a", NOVEMBER) == 7
    assert await limiter.used("a", DECEMBER) == 0


async def test_many_subjects_are_filled(scene: Scene) -> None:
    await scene.limiter.fill(NOVEMBER, {f"organisation {n}": n for n in range(1_200)})
    assert [await scene.limiter.used(f"organisation {n}", NOVEMBER) for n in (0, 499, 500, 1_199)] == [
        0,
        499,
        500,
        1_199,
    ]


# All of them


@pytest.mark.parametrize(
    ("allowance", "full"),
    [
        (Allowance(RatePolicy(1, 3), 100, 100), "rate"),
        (Allowance(RatePolicy(1, 100), 100, 3), "concurrency"),
        (Allowance(RatePolicy(1, 100), 3, 100), "quota"),
    ],
)
async def test_a_full_window_keeps_the_others_as_they_were(scene: Scene, allowance: Allowance, full: str) -> None:
    grants = [await scene.take(allowance) for _ in range(3)]
    for _ in range(10):
        refused = await scene.take(allowance)
        assert refused.refused == full
        if full != "rate" and refused.rate is not None:
            # The rate would have let it in; what it says is what is left, since nothing was taken.
            assert (refused.rate.allowed, refused.rate.remaining, refused.rate.retry_after_s) == (True, 97, 0.0)
    assert await scene.limiter.used("a", NOVEMBER) == 3
    for grant in grants:
        await scene.limiter.settle(grant, billed=False)
    wide = Allowance(RatePolicy(1, 1_000), 100, 100)
    last = await scene.take(wide)
    assert last.rate is not None
    assert (last.rate.remaining, last.quota) == (1_000 - 4, QuotaDecision(True, 1, 100))


async def test_no_limit_lets_everybody_in(scene: Scene) -> None:
    grant = await scene.take(Allowance())
    assert grant == Grant("a", NOVEMBER, grant.lease, Allowance())
    await scene.limiter.settle(grant, billed=True)
    assert await scene.limiter.used("a", NOVEMBER) == 0


@pytest.mark.parametrize("subject", ["Ann@Example.ORG", "ein Kunde", "{a}:{b}", "'\\\n", "Ωmega", "x" * 500])
async def test_any_text_is_a_subject(scene: Scene, subject: str) -> None:
    everything = Allowance(SIXTY, monthly=5, concurrent=1)
    grant = await scene.take(everything, subject)
    assert grant.quota == (True, 1, 5)
    await scene.limiter.settle(grant, billed=True)
    assert await scene.limiter.used(subject, NOVEMBER) == 1
    assert (await scene.take(everything, subject)).quota == (True, 2, 5)


class TokenBucket:
    """A bucket of `burst` tokens that fills continuously, in exact fractions. Times are whole microseconds."""

    def __init__(self, policy: RatePolicy) -> None:
        self.capacity = policy.burst or 1
        self.interval = Fraction(-(-60_000_000 // policy.per_minute))
        self.level = Fraction(self.capacity)

    def take(self, gap: int) -> tuple[bool, int, Fraction, Fraction]:
        """Return, after `gap` µs: allowed, whole tokens left, µs until full, µs until a call would fit."""
        self.level = min(Fraction(self.capacity), self.level + gap / self.interval)
        allowed = self.level >= 1
        if allowed:
            self.level -= 1
        wait = Fraction(0) if allowed else (1 - self.level) * self.interval
        return allowed, int(self.level), (self.capacity - self.level) * self.interval, wait


policies = st.builds(RatePolicy, per_minute=st.integers(1, 10_000_000), burst=st.integers(0, 50))
gaps_us = st.one_of(st.just(0), st.integers(0, 2_000), st.integers(0, 5_000_000), st.integers(0, 3_600_000_000))
# The fixture is a factory only, so nothing of one example reaches the next.
by_model = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@by_model
@given(policy=policies, gaps=st.lists(gaps_us, max_size=60))
def test_every_decision_is_that_of_the_token_bucket(open_scene: OpenScene, policy: RatePolicy, gaps: list[int]) -> None:
    model = TokenBucket(policy)

    async def scenario() -> None:
        async with open_scene() as scene:
            for gap in gaps:
                await scene.time.advance(gap)
                decision = (await scene.take(Allowance(policy))).rate
                assert decision is not None
                allowed, remaining, reset, wait = model.take(gap)
                assert decision[:3] == (allowed, model.capacity, remaining)
                assert round(decision.reset_after_s * 1e6) == reset
                assert round(decision.retry_after_s * 1e6) == wait

    asyncio.run(scenario())


@by_model
@given(policy=policies, gaps=st.lists(gaps_us, min_size=1, max_size=30))
def test_in_any_window_no_more_pass_than_the_burst_and_the_rate(
    open_scene: OpenScene, policy: RatePolicy, gaps: list[int]
) -> None:
    passed: list[int] = []

    async def scenario() -> None:
        now = 0
        async with open_scene() as scene:
            for gap in gaps:
                await scene.time.advance(gap)
                now += gap
                while not (await scene.take(Allowance(policy))).refused:
                    passed.append(now)

    asyncio.run(scenario())
    assert passed
    for (first, start), (last, end) in itertools.combinations(enumerate(passed), 2):
        assert last - first + 1 <= (policy.burst or 1) + (end - start) * policy.per_minute // 60_000_000


@by_model
@given(policy=policies)
def test_whoever_waits_as_long_as_told_gets_in_and_no_microsecond_earlier(
    open_scene: OpenScene, policy: RatePolicy
) -> None:
    async def scenario() -> None:
        async with open_scene() as scene:
            while not (grant := await scene.take(Allowance(policy))).refused:
                pass
            wait = round(grant.retry_after_s * 1e6)
            assert wait >= 1
            await scene.time.advance(wait - 1)
            assert (await scene.take(Allowance(policy))).refused
            await scene.time.advance(1)
            assert not (await scene.take(Allowance(policy))).refused

    asyncio.run(scenario())


class Model:
    """Quota and permits as plain sets: what each open call holds."""

    def __init__(self, allowance: Allowance) -> None:
        assert allowance.monthly is not None
        assert allowance.concurrent is not None
        self.monthly, self.concurrent = allowance.monthly, allowance.concurrent
        self.open: set[str] = set()
        self.settled = 0

    @property
    def used(self) -> int:
        return self.settled + len(self.open)

    @property
    def refusal(self) -> str:
        if len(self.open) >= self.concurrent:
            return "concurrency"
        return "quota" if self.used >= self.monthly else ""

    def settle(self, lease: str, *, billed: bool) -> None:
        self.settled += billed and lease in self.open
        self.open.discard(lease)


steps = st.one_of(
    st.tuples(st.just("take")),
    st.tuples(st.just("settle"), st.integers(0, 30), st.booleans()),
    st.tuples(st.just("fill"), st.integers(0, 25)),
)


@by_model
@given(monthly=st.integers(0, 25), concurrent=st.integers(0, 6), steps=st.lists(steps, max_size=40))
def test_quota_and_permits_are_those_of_the_model(
    open_scene: OpenScene, monthly: int, concurrent: int, steps: list[tuple[object, ...]]
) -> None:
    allowance = Allowance(None, monthly, concurrent)
    model = Model(allowance)

    async def scenario() -> None:
        grants: list[Grant] = []
        async with open_scene() as scene:
            for step in steps:
                match step:
                    case ("take",):
                        grant = await scene.take(allowance)
                        assert grant.refused == model.refusal
                        if not grant.refused:
                            model.open.add(grant.lease)
                        grants.append(grant)
                    case ("settle", int(number), bool(billed)) if grants:
                        grant = grants[number % len(grants)]
                        await scene.limiter.settle(grant, billed=billed)
                        model.settle(grant.lease, billed=billed)
                    case ("fill", int(count)):
                        await scene.limiter.fill(NOVEMBER, {"a": count})
                        model.settled = max(model.settled, count)
                assert await scene.limiter.used("a", NOVEMBER) == model.used

    asyncio.run(scenario())
