"""What every `VectorCache` does, and what the one in Redis does when Redis is slow, full or gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
import structlog
from redis.asyncio import Redis

from phalanx.ports import CachedVector, VectorCache
from phalanx.services.caches import TieredCache
from phalanx.stores.memory.cache import MemoryVectorCache
from phalanx.stores.redis import cache as redis_cache
from phalanx.stores.redis.cache import KEY_PREFIX, MAX_WAITING, RedisVectorCache
from phalanx.stores.redis.client import open_redis
from servers import RedisServer

pytestmark = pytest.mark.anyio

LOG = structlog.get_logger()


class WrittenAtOnce(RedisVectorCache):
    """Waits until Redis has what it was handed, so that a test can read it."""

    async def set_many(self, entries: Sequence[tuple[bytes, CachedVector]]) -> None:
        await super().set_many(entries)
        await self.flush()


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Redis]:
    client = open_redis(redis_server.url, reply_timeout_s=2.0)
    await client.flushdb()
    yield client
    await client.aclose()


@pytest.fixture
async def in_redis(redis: Redis) -> AsyncIterator[RedisVectorCache]:
    cache = WrittenAtOnce(redis, ttl_s=60, log=LOG)
    yield cache
    await cache.close()


@pytest.fixture(params=["memory", "redis", "tiers"])
def cache(request: pytest.FixtureRequest) -> VectorCache:
    if request.param == "memory":
        return MemoryVectorCache(100)
    second = request.getfixturevalue("in_redis")
    return second if request.param == "redis" else TieredCache(MemoryVectorCache(1), second)


def vector(n: int) -> CachedVector:
    return CachedVector(bytes([n % 256]) * 1536, tokens=n + 2, used_tokens=n + 1)


async def test_an_empty_cache_misses(cache: VectorCache) -> None:
    assert await cache.get_many([b"a", b"b"]) == [None, None]
    assert await cache.get_many([]) == []


async def test_what_was_set_comes_back_in_the_order_asked_for(cache: VectorCache) -> None:
    await cache.set_many([(b"a", vector(1)), (b"b", vector(2))])
    assert await cache.get_many([b"b", b"x", b"a", b"b"]) == [vector(2), None, vector(1), vector(2)]


async def test_setting_again_replaces(cache: VectorCache) -> None:
    await cache.set_many([(b"a", vector(1)), (b"a", vector(2))])
    await cache.set_many([(b"a", vector(3))])
    assert await cache.get_many([b"a"]) == [vector(3)]


async def test_setting_nothing_changes_nothing(cache: VectorCache) -> None:
    await cache.set_many([(b"a", vector(1))])
    await cache.set_many([])
    assert await cache.get_many([b"a"]) == [vector(1)]


async def test_any_bytes_are_a_key_and_a_value(cache: VectorCache) -> None:
    key, value = bytes(range(16)), CachedVector(b"\x00\xff\n" * 512, 0, 0)
    await cache.set_many([(key, value), (b"", vector(1))])
    assert await cache.get_many([key, b""]) == [value, vector(1)]


async def test_vectors_of_another_worker_are_found(redis: Redis, in_redis: RedisVectorCache) -> None:
    await in_redis.set_many([(b"a", vector(1))])
    assert await RedisVectorCache(redis, ttl_s=60, log=LOG).get_many([b"a"]) == [vector(1)]


async def test_many_keys_are_one_question(redis: Redis, in_redis: RedisVectorCache) -> None:
    entries = [(bytes([n]), vector(n)) for n in range(200)]
    await in_redis.set_many(entries)
    await redis.config_resetstat()
    assert await in_redis.get_many([key for key, _ in entries]) == [found for _, found in entries]
    calls = {name: facts["calls"] for name, facts in (await redis.info("commandstats")).items()}
    assert calls["cmdstat_mget"] == 1
    assert "cmdstat_get" not in calls


async def test_a_vector_lives_as_long_as_it_was_told_to(redis: Redis, in_redis: RedisVectorCache) -> None:
    await in_redis.set_many([(b"a", vector(1))])
    assert 59 <= await redis.ttl(KEY_PREFIX + b"a") <= 60
    with pytest.raises(ValueError, match="ttl_s is 0"):
        RedisVectorCache(redis, ttl_s=0, log=LOG)


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
    redis: Redis, in_redis: RedisVectorCache, spoil: Callable[[bytes], bytes]
) -> None:
    await in_redis.set_many([(b"a", vector(1)), (b"b", vector(2))])
    value = await redis.get(KEY_PREFIX + b"a")
    assert isinstance(value, bytes)
    await redis.set(KEY_PREFIX + b"a", spoil(value))
    assert await in_redis.get_many([b"a", b"b"]) == [None, vector(2)]


async def until_up(cache: RedisVectorCache) -> None:
    async with asyncio.timeout(10):
        while not cache.is_up:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_an_outage_is_a_miss_and_is_over_when_redis_is_back(
    redis_server: RedisServer, in_redis: RedisVectorCache, monkeypatch: pytest.MonkeyPatch
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


async def test_redis_that_does_not_answer_is_waited_for_once(redis: Redis, in_redis: RedisVectorCache) -> None:
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
    in_redis: RedisVectorCache, monkeypatch: pytest.MonkeyPatch
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


async def test_redis_that_is_full_still_answers(redis: Redis, in_redis: RedisVectorCache) -> None:
    await in_redis.set_many([(b"a", vector(1))])
    await redis.config_set("maxmemory", "1")
    try:
        await in_redis.set_many([(b"b", vector(2))])
        assert await in_redis.get_many([b"a", b"b"]) == [vector(1), None]
        assert in_redis.is_up
    finally:
        await redis.config_set("maxmemory", "0")


async def test_writing_holds_no_call_up_and_what_comes_too_fast_is_dropped(redis: Redis) -> None:
    cache = RedisVectorCache(redis, ttl_s=60, log=LOG)
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


async def test_closing_ends_what_is_under_way(redis: Redis) -> None:
    cache = RedisVectorCache(redis, ttl_s=60, log=LOG)
    await redis.client_pause(300)
    await cache.set_many([(b"a", vector(1))])
    cache._lose(TimeoutError())
    started = time.perf_counter()
    await cache.close()
    assert time.perf_counter() - started < 0.2
    await redis.client_unpause()


async def test_under_load_an_outage_is_misses_and_holds_nobody_up(redis_server: RedisServer, redis: Redis) -> None:
    cache = RedisVectorCache(redis, ttl_s=60, log=LOG)
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
    await asyncio.sleep(0.2)
    # Off the loop, or waiting for the server would count as waiting for the cache.
    await asyncio.to_thread(redis_server.start)
    await until_up(cache)
    hits = 0
    await asyncio.sleep(0.2)
    is_over = True
    await asyncio.gather(*callers)
    assert slowest < 1.0
    assert hits
    await cache.close()
