"""What every cache of vectors and of results does, and what those in Redis do when Redis is slow, full or gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
import structlog
from redis.asyncio import Redis

from phalanx.ports import Cache, CachedVector, ResultCache, VectorCache
from phalanx.services.caches import TieredCache
from phalanx.stores.memory.cache import MemoryCache, size_of
from phalanx.stores.redis import cache as redis_cache
from phalanx.stores.redis.cache import MAX_WAITING, MAX_WAITING_BYTES, RESULTS, VECTORS, RedisCache
from phalanx.stores.redis.client import open_redis
from servers import RedisServer

pytestmark = pytest.mark.anyio

LOG = structlog.get_logger()
OUTAGE_S = 2.0


class WrittenAtOnce(RedisCache[Any]):
    """Waits until Redis has what it was handed, so that a test can read it."""

    async def set_many(self, entries: Sequence[tuple[bytes, Any]]) -> None:
        await super().set_many(entries)
        await self.flush()


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Redis]:
    client = open_redis(redis_server.url, reply_timeout_s=2.0)
    await client.flushdb()
    yield client
    await client.aclose()


@pytest.fixture
async def in_redis(redis: Redis) -> AsyncIterator[RedisCache[CachedVector]]:
    cache = WrittenAtOnce(redis, VECTORS, ttl_s=60, log=LOG)
    yield cache
    await cache.close()


@pytest.fixture
async def results_in_redis(redis: Redis) -> AsyncIterator[RedisCache[bytes]]:
    cache = WrittenAtOnce(redis, RESULTS, ttl_s=60, log=LOG)
    yield cache
    await cache.close()


@pytest.fixture(params=["memory", "redis", "tiers"])
def vectors(request: pytest.FixtureRequest) -> VectorCache:
    if request.param == "memory":
        return MemoryCache(100)
    second: RedisCache[CachedVector] = request.getfixturevalue("in_redis")
    return second if request.param == "redis" else TieredCache(MemoryCache(1), second)


@pytest.fixture(params=["memory", "redis", "tiers"])
def results(request: pytest.FixtureRequest) -> ResultCache:
    if request.param == "memory":
        return MemoryCache(10_000, weigh=size_of)
    second: RedisCache[bytes] = request.getfixturevalue("results_in_redis")
    return second if request.param == "redis" else TieredCache(MemoryCache(300, weigh=size_of), second)


def vector(n: int) -> CachedVector:
    return CachedVector(bytes([n % 256]) * 1536, tokens=n + 2, used_tokens=n + 1)


async def check_what_every_cache_does(cache: Cache[Any], one: Any, two: Any, three: Any) -> None:
    assert await cache.get_many([b"a", b"b"]) == [None, None]
    assert await cache.get_many([]) == []
    await cache.set_many([(b"a", one), (b"b", two)])
    assert await cache.get_many([b"b", b"x", b"a", b"b"]) == [two, None, one, two]
    await cache.set_many([])
    assert await cache.get_many([b"a"]) == [one]
    await cache.set_many([(b"a", one), (b"a", two)])
    await cache.set_many([(b"a", three)])
    assert await cache.get_many([b"a"]) == [three]
    key = bytes(range(16))
    await cache.set_many([(key, one), (b"", two)])
    assert await cache.get_many([key, b""]) == [one, two]


async def test_vectors_come_back_in_the_order_asked_for(vectors: VectorCache) -> None:
    await check_what_every_cache_does(vectors, vector(1), CachedVector(b"\x00\xff\n\r" * 512, 0, 0), vector(3))


async def test_results_come_back_in_the_order_asked_for(results: ResultCache) -> None:
    await check_what_every_cache_does(results, b"\x00\xff\n", b"", b"3" * 20)


async def test_vectors_and_results_do_not_meet_in_redis(
    in_redis: RedisCache[CachedVector], results_in_redis: RedisCache[bytes]
) -> None:
    await in_redis.set_many([(b"a", vector(1))])
    await results_in_redis.set_many([(b"a", b"1")])
    assert await in_redis.get_many([b"a"]) == [vector(1)]
    assert await results_in_redis.get_many([b"a"]) == [b"1"]


async def test_a_result_larger_than_the_memory_is_found_in_redis(results_in_redis: RedisCache[bytes]) -> None:
    cache = TieredCache(MemoryCache(1000, weigh=size_of), results_in_redis)
    await cache.set_many([(b"a", b"x" * 100_000)])
    assert await cache.get_many([b"a"]) == [b"x" * 100_000]


async def test_vectors_of_another_worker_are_found(redis: Redis, in_redis: RedisCache[CachedVector]) -> None:
    await in_redis.set_many([(b"a", vector(1))])
    assert await RedisCache(redis, VECTORS, ttl_s=60, log=LOG).get_many([b"a"]) == [vector(1)]


async def test_many_keys_are_one_question(redis: Redis, in_redis: RedisCache[CachedVector]) -> None:
    entries = [(bytes([n]), vector(n)) for n in range(200)]
    await in_redis.set_many(entries)
    await redis.config_resetstat()
    assert await in_redis.get_many([key for key, _ in entries]) == [found for _, found in entries]
    calls = {name: facts["calls"] for name, facts in (await redis.info("commandstats")).items()}
    assert calls["cmdstat_mget"] == 1
    assert "cmdstat_get" not in calls


async def test_a_vector_lives_as_long_as_it_was_told_to(redis: Redis, in_redis: RedisCache[CachedVector]) -> None:
    await in_redis.set_many([(b"a", vector(1))])
    assert 59 <= await redis.ttl(VECTORS.prefix + b"a") <= 60
    with pytest.raises(ValueError, match="ttl_s is 0"):
        RedisCache(redis, VECTORS, ttl_s=0, log=LOG)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda value: b"",
        lambda value: value[:5],
        lambda value: value[:-1],
        lambda value: value[:-4],
        lambda value: value + b"1234",
        lambda value: bytes([value[0] + 1]) + value[1:],
        lambda value: b"x" * len(value),
    ],
)
async def test_a_value_that_is_none_is_a_miss(
    redis: Redis, in_redis: RedisCache[CachedVector], spoil: Callable[[bytes], bytes]
) -> None:
    await in_redis.set_many([(b"a", vector(1)), (b"b", vector(2))])
    value = await redis.get(VECTORS.prefix + b"a")
    assert isinstance(value, bytes)
    await redis.set(VECTORS.prefix + b"a", spoil(value))
    assert await in_redis.get_many([b"a", b"b"]) == [None, vector(2)]


@pytest.mark.parametrize(
    "spoil", [lambda v: b"", lambda v: v[:3], lambda v: v[:-1], lambda v: v + b"1", lambda v: b"\x02" + v[1:]]
)
async def test_a_result_that_is_none_is_a_miss(
    redis: Redis, results_in_redis: RedisCache[bytes], spoil: Callable[[bytes], bytes]
) -> None:
    await results_in_redis.set_many([(b"a", b"12345")])
    value = await redis.get(RESULTS.prefix + b"a")
    assert isinstance(value, bytes)
    await redis.set(RESULTS.prefix + b"a", spoil(value))
    assert await results_in_redis.get_many([b"a"]) == [None]


async def until_up(cache: RedisCache[CachedVector]) -> None:
    async with asyncio.timeout(10):
        while not cache.is_up:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_an_outage_is_a_miss_and_is_over_when_redis_is_back(
    redis_server: RedisServer, in_redis: RedisCache[CachedVector], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_cache, "FIRST_PAUSE_S", 0.05)
    in_redis._pause_s = 0.05
    await in_redis.set_many([(b"a", vector(1))])
    redis_server.kill()
    try:
        assert await in_redis.get_many([b"a", b"b"]) == [None, None]
        assert not in_redis.is_up
        await in_redis.set_many([(b"c", vector(3))])
        started = time.perf_counter()
        for _ in range(100):
            assert await in_redis.get_many([b"a"]) == [None]
        assert time.perf_counter() - started < 0.05
    finally:
        redis_server.start()
    await until_up(in_redis)
    assert await in_redis.get_many([b"a"]) == [vector(1)]


async def test_redis_that_does_not_answer_is_waited_for_once(redis: Redis, in_redis: RedisCache[CachedVector]) -> None:
    in_redis._pause_s = 0.05
    await in_redis.set_many([(b"a", vector(1)), (b"b", vector(2))])
    await redis.client_pause(300)
    started = time.perf_counter()
    assert await in_redis.get_many([b"a"]) == [None]
    assert 0.04 < time.perf_counter() - started < 0.2
    assert await in_redis.get_many([b"a"]) == [None]
    assert time.perf_counter() - started < 0.2
    await redis.client_unpause()
    await until_up(in_redis)
    # The answer that came too late is nobody else's.
    assert await in_redis.get_many([b"b"]) == [vector(2)]


async def test_pauses_grow_to_five_seconds_and_start_anew_after_an_answer(
    in_redis: RedisCache[CachedVector], monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    answers = iter([False, False, False, False, True])

    async def answer() -> bool:
        return next(answers)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(in_redis, "_answers", answer)
    in_redis._lose(TimeoutError())
    assert in_redis._recovery is not None
    await in_redis._recovery
    assert pauses == [1.0, 2.0, 4.0, 5.0, 5.0]
    await in_redis.get_many([b"a"])
    assert in_redis._pause_s == 1.0


async def test_redis_that_is_full_still_answers(redis: Redis, in_redis: RedisCache[CachedVector]) -> None:
    await in_redis.set_many([(b"a", vector(1))])
    await redis.config_set("maxmemory", "1")
    try:
        await in_redis.set_many([(b"b", vector(2))])
        assert await in_redis.get_many([b"a", b"b"]) == [vector(1), None]
        assert in_redis.is_up
    finally:
        await redis.config_set("maxmemory", "0")


async def test_writing_holds_no_call_up_and_what_comes_too_fast_is_dropped(redis: Redis) -> None:
    cache = RedisCache(redis, VECTORS, ttl_s=60, log=LOG)
    await redis.client_pause(300)
    started = time.perf_counter()
    for batch in range(3):
        await cache.set_many([(f"{batch} {n}".encode(), vector(n)) for n in range(MAX_WAITING // 2)])
    await cache.set_many([(b"last", vector(1))])
    assert time.perf_counter() - started < 0.2
    assert len(cache._waiting) == MAX_WAITING
    await redis.client_unpause()
    await cache.flush()
    assert await redis.dbsize() == MAX_WAITING
    await cache.close()


async def test_large_results_wait_for_redis_in_bounded_memory(redis: Redis) -> None:
    cache = RedisCache(redis, RESULTS, ttl_s=60, log=LOG)
    size = MAX_WAITING_BYTES // 4 - 100
    await redis.client_pause(200)
    for n in range(8):
        await cache.set_many([(bytes([n]), bytes(size))])
    assert len(cache._waiting) == 4
    await redis.client_unpause()
    await cache.flush()
    assert (await redis.dbsize(), cache._waiting_bytes) == (4, 0)
    await cache.close()


async def test_closing_ends_what_is_under_way(redis: Redis) -> None:
    cache = RedisCache(redis, VECTORS, ttl_s=60, log=LOG)
    await redis.client_pause(300)
    await cache.set_many([(b"a", vector(1))])
    cache._lose(TimeoutError())
    started = time.perf_counter()
    await cache.close()
    assert time.perf_counter() - started < 0.2
    await redis.client_unpause()


async def test_under_load_an_outage_is_misses_and_holds_nobody_up(redis_server: RedisServer, redis: Redis) -> None:
    cache = RedisCache(redis, VECTORS, ttl_s=60, log=LOG)
    cache._pause_s = 0.05
    clock = asyncio.get_running_loop().time
    slowest, hits, is_over = 0.0, 0, False

    async def caller(number: int) -> None:
        nonlocal slowest, hits
        keys = [f"{number} {n}".encode() for n in range(5)]
        while not is_over:
            started = clock()
            found = await cache.get_many(keys)
            await cache.set_many([(key, vector(number)) for key in keys])
            slowest = max(slowest, clock() - started)
            assert set(found) <= {None, vector(number)}
            hits += None not in found
            await asyncio.sleep(0.005)

    callers = [asyncio.create_task(caller(number)) for number in range(20)]
    await asyncio.sleep(0.3)
    redis_server.kill()
    await asyncio.sleep(OUTAGE_S)
    # Off the loop, or waiting for the server would count as waiting for the cache.
    await asyncio.to_thread(redis_server.start)
    await until_up(cache)
    hits = 0
    await asyncio.sleep(0.2)
    is_over = True
    await asyncio.gather(*callers)
    assert slowest < OUTAGE_S
    assert hits
    await cache.close()
