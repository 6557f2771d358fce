"""What a `SharedLimiter` does beside: leases, generations, settling that is sent again, a server that fails."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from collections.abc import AsyncIterator, Callable

import pytest
from redis.asyncio import Redis

from phalanx.errors import Unavailable
from phalanx.ports import Allowance, Grant, RatePolicy
from phalanx.stores.memory.clock import SystemClock
from phalanx.stores.redis.client import open_redis
from phalanx.stores.redis.limiter import RedisLimiter
from phalanx.stores.redis.scripts import ScriptConnection
from servers import RedisServer

pytestmark = pytest.mark.anyio
NOVEMBER = "2026-11"
EVERYTHING = Allowance(RatePolicy(per_minute=600, burst=100), monthly=100, concurrent=10)
LEASES = itertools.count()
MakeLimiter = Callable[..., RedisLimiter]


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Redis]:
    async with open_redis(redis_server.url) as redis:
        await redis.flushdb()
        yield redis


@pytest.fixture
async def make_limiter(redis: Redis, redis_server: RedisServer) -> AsyncIterator[MakeLimiter]:
    """Make limiters as separate workers would have them; the first begins to count."""
    opened: list[tuple[Redis, RedisLimiter]] = []

    def make(lease_s: float = 30.0) -> RedisLimiter:
        own = open_redis(redis_server.url)
        opened.append((own, RedisLimiter(own, SystemClock(), lease_s=lease_s)))
        return opened[-1][1]

    yield make
    for own, limiter in opened:
        await limiter.close()
        await own.aclose()


@pytest.fixture
async def limiter(make_limiter: MakeLimiter) -> RedisLimiter:
    limiter = make_limiter()
    await limiter.begin_counting()
    return limiter


async def take(limiter: RedisLimiter, allowance: Allowance = EVERYTHING, subject: str = "a") -> Grant:
    return await limiter.take(subject, allowance, period=NOVEMBER, lease=f"call-{next(LEASES)}")


async def evalsha_calls(redis: Redis) -> int:
    stats = await redis.info("commandstats")
    return int(stats.get("cmdstat_evalsha", {}).get("calls", 0))


async def test_a_call_costs_one_script_and_no_other_command(redis: Redis, limiter: RedisLimiter) -> None:
    await take(limiter)
    await redis.config_resetstat()
    for _ in range(10):
        await take(limiter)
    stats = await redis.info("commandstats")
    asked = {name for name, row in stats.items() if row["calls"]} - {"cmdstat_info", "cmdstat_config|resetstat"}
    inside = {"get", "set", "time", "zcount", "zadd", "zremrangebyscore", "pexpire"}
    assert asked == {"cmdstat_evalsha", *(f"cmdstat_{name}" for name in inside)}
    assert stats["cmdstat_evalsha"]["calls"] == 10


async def test_without_limits_redis_is_not_asked(redis: Redis, limiter: RedisLimiter) -> None:
    await take(limiter)
    await redis.config_resetstat()
    for _ in range(10):
        await limiter.settle(await take(limiter, Allowance()), billed=True)
    await asyncio.sleep(0.02)
    assert await evalsha_calls(redis) == 0


async def test_a_thousand_calls_at_once_share_round_trips(redis: Redis, limiter: RedisLimiter) -> None:
    await take(limiter)
    sent = (await redis.info("stats"))["total_reads_processed"]
    wide = Allowance(monthly=10_000)
    grants = await asyncio.gather(*(take(limiter, wide) for _ in range(1_000)))
    await asyncio.gather(*(limiter.settle(grant, billed=True) for grant in grants))
    assert await limiter.used("a", NOVEMBER) == 1_001
    # A megabyte of commands is read in pieces, but not in a thousand.
    assert (await redis.info("stats"))["total_reads_processed"] - sent < 200


async def test_all_keys_but_the_marker_run_out(redis: Redis, limiter: RedisLimiter) -> None:
    await limiter.settle(await take(limiter), billed=True)
    await take(limiter)
    await limiter.fill(NOVEMBER, {"b": 3})
    assert await limiter.claim_rebuild()
    await limiter.flush()
    lives = {str(key).split(":")[2].rstrip("'"): await redis.pttl(key) for key in await redis.keys("*")}
    assert lives.pop("generation") == -1
    assert set(lives) == {"rate", "open", "reserved", "used", "batch", "rebuild"}
    assert all(left > 0 for left in lives.values())
    assert lives["used"] > 31 * 86_400_000
    assert lives["open"] <= 30_000


async def test_a_refused_call_writes_nothing(redis: Redis, limiter: RedisLimiter) -> None:
    full = Allowance(RatePolicy(per_minute=1, burst=1), monthly=1, concurrent=1)
    await take(limiter, full)
    for allowance in (full, Allowance(concurrent=1), Allowance(RatePolicy(6000, 100), monthly=1)):
        before = {key: await redis.dump(key) for key in await redis.keys("*")}
        assert (await take(limiter, allowance)).refused
        assert {key: await redis.dump(key) for key in await redis.keys("*")} == before


# Leases


async def test_what_a_dead_worker_held_comes_back(make_limiter: MakeLimiter, limiter: RedisLimiter) -> None:
    two = Allowance(monthly=2, concurrent=2)
    dead = make_limiter(lease_s=0.3)
    assert [(await take(dead, two)).refused for _ in range(2)] == ["", ""]
    refused = await take(limiter, two)
    assert (refused.refused, await limiter.used("a", NOVEMBER)) == ("concurrency", 2)
    await asyncio.sleep(0.35)
    assert await limiter.used("a", NOVEMBER) == 0
    assert [(await take(limiter, two)).refused for _ in range(3)] == ["", "", "concurrency"]


async def test_the_leases_of_a_long_call_are_prolonged(make_limiter: MakeLimiter, limiter: RedisLimiter) -> None:
    one = Allowance(monthly=5, concurrent=1)
    alive = make_limiter(lease_s=0.3)
    grant = await take(alive, one)
    for _ in range(6):
        await asyncio.sleep(0.12)
        await alive.renew()
    assert (await take(limiter, one)).refused == "concurrency"
    assert await limiter.used("a", NOVEMBER) == 1
    await alive.settle(grant, billed=False)
    await alive.renew()
    assert await limiter.used("a", NOVEMBER) == 0


async def test_a_call_that_outlived_its_lease_is_counted_all_the_same(
    make_limiter: MakeLimiter, limiter: RedisLimiter
) -> None:
    slow = make_limiter(lease_s=0.1)
    grant = await take(slow)
    await asyncio.sleep(0.15)
    await take(limiter)
    await slow.settle(grant, billed=True)
    await slow.flush()
    assert await limiter.used("a", NOVEMBER) == 2


async def test_a_caller_that_leaves_while_it_is_let_in_holds_nothing(limiter: RedisLimiter) -> None:
    tasks = [asyncio.create_task(take(limiter)) for _ in range(5)]
    await asyncio.sleep(0)
    for task in tasks[:3]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await limiter.flush()
    assert await limiter.used("a", NOVEMBER) == 2


# Settling


async def test_what_is_settled_follows_without_another_call(make_limiter: MakeLimiter, limiter: RedisLimiter) -> None:
    one = Allowance(concurrent=1)
    other = make_limiter()
    for _ in range(20):
        grant = await take(limiter, one)
        await limiter.settle(grant, billed=True)
        # The caller goes on at once, with another worker: a round trip later its permit is there.
        await asyncio.sleep(0.02)
        limiter, other = other, limiter


class LosingAnswers:
    """Lets scripts run, and loses the answers to those named."""

    def __init__(self, connection: ScriptConnection) -> None:
        self._run = connection.run
        self.losing = False
        self.lost = 0

    async def run(self, calls: object) -> list[object]:
        answers = await self._run(calls)  # type: ignore[arg-type]
        if self.losing:
            self.lost += 1
            raise Unavailable("the answer was lost")
        return answers


async def test_a_batch_whose_answer_was_lost_counts_once(
    limiter: RedisLimiter, make_limiter: MakeLimiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = LosingAnswers(limiter._connection)
    monkeypatch.setattr(limiter._connection, "run", line.run)
    grants = [await take(limiter) for _ in range(4)]
    line.losing = True
    for grant in grants[:3]:
        await limiter.settle(grant, billed=True)
    limiter.charge("a", NOVEMBER, 10)
    for _ in range(3):
        with pytest.raises(Unavailable):
            await limiter.flush()
    line.losing = False
    await limiter.settle(grants[3], billed=True)
    await limiter.flush()
    assert line.lost == 3
    assert await make_limiter().used("a", NOVEMBER) == 14


async def test_a_take_whose_answer_was_lost_gives_back_what_it_took(
    limiter: RedisLimiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = LosingAnswers(limiter._connection)
    monkeypatch.setattr(limiter._connection, "run", line.run)
    await limiter.is_counting()
    line.losing = True
    with pytest.raises(Unavailable):
        await take(limiter)
    line.losing = False
    await limiter.flush()
    assert await limiter.used("a", NOVEMBER) == 0


# Generations


async def test_nothing_is_taken_before_the_counters_are_whole(redis: Redis, make_limiter: MakeLimiter) -> None:
    limiter = make_limiter()
    assert not await limiter.is_counting()
    for allowance in (EVERYTHING, Allowance(RatePolicy(60, 5)), Allowance(monthly=1)):
        with pytest.raises(Unavailable, match="ledger"):
            await take(limiter, allowance)
    with pytest.raises(Unavailable, match="ledger"):
        await limiter.renew()
    await limiter.flush()
    assert [key async for key in redis.scan_iter("*rate*")] == []
    await limiter.fill(NOVEMBER, {"a": 99})
    await limiter.begin_counting()
    assert await limiter.is_counting()
    assert [(await take(limiter)).refused for _ in range(2)] == ["", "quota"]


async def test_one_worker_fills_the_counters(make_limiter: MakeLimiter) -> None:
    limiters = [make_limiter() for _ in range(3)]
    claims = await asyncio.gather(*(limiter.claim_rebuild() for limiter in limiters))
    assert sorted(claims) == [False, False, True]
    # Whose first attempt failed may try again.
    assert [await limiter.claim_rebuild() for limiter in limiters] == claims


async def test_the_first_to_begin_names_the_generation(redis: Redis, make_limiter: MakeLimiter) -> None:
    limiters = [make_limiter() for _ in range(5)]
    await asyncio.gather(*(limiter.begin_counting() for limiter in limiters))
    marker = await redis.get("phalanx:limits:generation")
    assert {limiter._generation for limiter in limiters} == {marker}


async def test_what_was_taken_before_the_loss_is_the_ledgers_to_tell(redis: Redis, limiter: RedisLimiter) -> None:
    before = await take(limiter)
    limiter.charge("a", NOVEMBER, 5)
    await redis.flushdb()
    await limiter.settle(before, billed=True)
    limiter.charge("a", NOVEMBER, 5)
    await limiter.fill(NOVEMBER, {"a": 40})
    await limiter.begin_counting()
    after = await take(limiter)
    limiter.charge("a", NOVEMBER, 2)
    await limiter.settle(after, billed=True)
    await limiter.flush()
    assert await limiter.used("a", NOVEMBER) == 43


async def test_what_was_charged_before_redis_was_ever_reached_is_counted(
    limiter: RedisLimiter, make_limiter: MakeLimiter
) -> None:
    late = make_limiter()
    late.charge("a", NOVEMBER, 3)
    await late.flush()
    assert await limiter.used("a", NOVEMBER) == 0
    assert await late.is_counting()
    late.charge("a", NOVEMBER, 1)
    await late.flush()
    assert await limiter.used("a", NOVEMBER) == 4


async def test_charges_follow_without_a_call(limiter: RedisLimiter, make_limiter: MakeLimiter) -> None:
    for _ in range(50):
        limiter.charge("a", NOVEMBER, 2)
    await asyncio.sleep(0.05)
    assert await make_limiter().used("a", NOVEMBER) == 100


# A server that fails


async def test_flushed_scripts_are_handed_in_again(redis: Redis, limiter: RedisLimiter) -> None:
    one = Allowance(concurrent=1, monthly=10)
    grant = await take(limiter, one)
    await redis.script_flush()
    await limiter.settle(grant, billed=True)
    await limiter.flush()
    assert (await take(limiter, one)).quota == (True, 2, 10)


async def test_a_restarted_redis_goes_on_counting(limiter: RedisLimiter, redis_server: RedisServer) -> None:
    grants = [await take(limiter) for _ in range(3)]
    redis_server.kill()
    try:
        for grant in grants[:2]:
            await limiter.settle(grant, billed=True)
        begun = time.monotonic()
        with pytest.raises(Unavailable, match="cannot be reached") as raised:
            await take(limiter)
        assert time.monotonic() - begun < 0.5
        assert str(redis_server.port) not in raised.value.detail
    finally:
        redis_server.start()
    assert await limiter.is_counting()
    await limiter.flush()
    assert await limiter.used("a", NOVEMBER) == 3
    await limiter.settle(grants[2], billed=False)
    assert await limiter.used("a", NOVEMBER) == 2


async def test_a_redis_that_hangs_holds_nobody_for_half_a_second(
    limiter: RedisLimiter, redis_server: RedisServer
) -> None:
    await take(limiter)
    assert redis_server._process is not None
    os.kill(redis_server._process.pid, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        first = [asyncio.create_task(take(limiter)) for _ in range(20)]
        await asyncio.sleep(0.2)
        second = [asyncio.create_task(take(limiter)) for _ in range(20)]
        results = await asyncio.gather(*first, *second, return_exceptions=True)
        assert time.monotonic() - begun < 0.6
        assert {type(result) for result in results} == {Unavailable}
    finally:
        os.kill(redis_server._process.pid, signal.SIGCONT)
    # Some of them ran all the same, once Redis went on.
    await asyncio.sleep(0.05)
    await limiter.flush()
    assert await limiter.used("a", NOVEMBER) == 1


async def test_a_full_redis_is_unavailable_and_keeps_what_is_to_be_settled(redis: Redis, limiter: RedisLimiter) -> None:
    grant = await take(limiter)
    await redis.config_set("maxmemory", "1")
    try:
        with pytest.raises(Unavailable, match="memory is full"):
            await take(limiter)
        # What ends a lease frees memory, which Redis lets through.
        await limiter.settle(grant, billed=True)
        await limiter.flush()
        limiter.charge("a", NOVEMBER, 4)
        with pytest.raises(Unavailable, match="memory is full"):
            await limiter.flush()
    finally:
        await redis.config_set("maxmemory", "0")
    await limiter.flush()
    assert await limiter.used("a", NOVEMBER) == 5


async def test_closing_brings_what_is_settled(limiter: RedisLimiter, make_limiter: MakeLimiter) -> None:
    grants = [await take(limiter) for _ in range(3)]
    for grant in grants:
        await limiter.settle(grant, billed=grant is grants[0])
    await limiter.close()
    assert await make_limiter().used("a", NOVEMBER) == 1


async def test_three_workers_with_fifty_callers_each_stay_within_the_limits(make_limiter: MakeLimiter) -> None:
    limiters = [make_limiter() for _ in range(3)]
    await limiters[0].begin_counting()
    paced = Allowance(RatePolicy(per_minute=6_000, burst=40), concurrent=25)
    metered = Allowance(monthly=700)
    begun, end = time.monotonic(), time.monotonic() + 1.0
    passed = {"rate": 0, "quota": 0}
    open_now = most_open = 0

    async def call_at_a_rate(limiter: RedisLimiter) -> None:
        nonlocal open_now, most_open
        while time.monotonic() < end:
            grant = await take(limiter, paced, "paced")
            if grant.refused:
                await asyncio.sleep(0.002)
                continue
            open_now += 1
            most_open = max(most_open, open_now)
            passed["rate"] += 1
            await asyncio.sleep(0.001)
            open_now -= 1
            await limiter.settle(grant, billed=True)

    async def use_up(limiter: RedisLimiter, *, billed: bool) -> None:
        while not (grant := await take(limiter, metered, "metered")).refused:
            passed["quota"] += billed
            await asyncio.sleep(0)
            await limiter.settle(grant, billed=billed)
            if not billed:
                return

    paces = [call_at_a_rate(limiter) for limiter in limiters for _ in range(50)]
    uses = [use_up(limiter, billed=n > 5) for limiter in limiters for n in range(50)]
    await asyncio.gather(*paces, *uses)
    took = time.monotonic() - begun
    assert 40 + 100 * 0.5 < passed["rate"] <= 40 + int(100 * took)
    assert most_open <= 25
    # Whoever was refused while others' reservations were open left; what is left of the month is still there to take.
    while not (grant := await take(limiters[0], metered, "metered")).refused:
        passed["quota"] += 1
        await limiters[0].settle(grant, billed=True)
    assert passed["quota"] == 700 == await limiters[1].used("metered", NOVEMBER)
