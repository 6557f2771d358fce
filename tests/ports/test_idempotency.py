"""What every `IdempotencyStore` does, and what the one in Redis does when Redis or a worker is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import structlog
from redis.asyncio import Redis

from clocks import HandClock
from phalanx.errors import Conflict, IdempotencyMismatch, Unavailable
from phalanx.ports import IdempotencyStore
from phalanx.stores.memory.idempotency import ANSWER_KEPT_S, CLAIM_LEASE_S, MemoryIdempotencyStore
from phalanx.stores.redis.client import open_redis
from phalanx.stores.redis.idempotency import (
    AGES_PREFIX,
    ENTRY_BYTES,
    KEY_PREFIX,
    SIZES_PREFIX,
    RedisIdempotencyStore,
)
from servers import RedisServer

pytestmark = pytest.mark.anyio

Advance = Callable[[float], Awaitable[None]]


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Redis]:
    client = open_redis(redis_server.url)
    await client.flushdb()
    yield client
    await client.aclose()


def in_redis(redis: Redis) -> RedisIdempotencyStore:
    return RedisIdempotencyStore(redis, log=structlog.get_logger(), lease_s=CLAIM_LEASE_S)


@pytest.fixture(params=["memory", "redis"])
def technology(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def store(technology: str, request: pytest.FixtureRequest, clock: HandClock) -> IdempotencyStore:
    return MemoryIdempotencyStore(clock) if technology == "memory" else in_redis(request.getfixturevalue("redis"))


@pytest.fixture
def advance(technology: str, request: pytest.FixtureRequest, clock: HandClock) -> Advance:
    """Let seconds go by: on the clock, or in how long each key of Redis has left."""

    async def advance(seconds: float) -> None:
        if technology == "memory":
            clock.advance(seconds)
            return
        redis: Redis = request.getfixturevalue("redis")
        for key in await redis.keys():
            await redis.pexpire(key, round(await redis.pttl(key) - seconds * 1e3))

    return advance


async def test_the_first_call_goes_on_and_its_repetition_gets_its_answer(store: IdempotencyStore) -> None:
    assert await store.begin("k", b"request") is None
    await store.finish("k", b"answer")
    assert await store.begin("k", b"request") == b"answer"
    assert await store.begin("k", b"request") == b"answer"


async def test_an_empty_answer_is_an_answer(store: IdempotencyStore) -> None:
    await store.begin("k", b"request")
    await store.finish("k", b"")
    assert await store.begin("k", b"request") == b""


async def test_a_repetition_while_the_first_is_under_way_is_a_conflict(store: IdempotencyStore) -> None:
    await store.begin("k", b"request")
    with pytest.raises(Conflict):
        await store.begin("k", b"request")


@pytest.mark.parametrize("finished", [False, True])
async def test_another_request_under_the_same_key_is_a_mismatch(store: IdempotencyStore, finished: bool) -> None:
    await store.begin("k", b"request")
    if finished:
        await store.finish("k", b"answer")
    with pytest.raises(IdempotencyMismatch):
        await store.begin("k", b"another")
    if finished:
        assert await store.begin("k", b"request") == b"answer"


async def test_a_failed_call_frees_its_key(store: IdempotencyStore) -> None:
    await store.begin("k", b"request")
    await store.finish("k", None)
    assert await store.begin("k", b"another") is None


async def test_keys_are_told_apart(store: IdempotencyStore) -> None:
    await store.begin("a", b"request")
    assert await store.begin("b", b"request") is None


async def test_of_many_calls_at_once_one_goes_on(store: IdempotencyStore) -> None:
    outcomes = await asyncio.gather(*(store.begin("k", b"request") for _ in range(50)), return_exceptions=True)
    assert sum(outcome is None for outcome in outcomes) == 1
    assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 49


async def test_an_answer_is_kept_for_a_day(store: IdempotencyStore, advance: Advance) -> None:
    await store.begin("k", b"request")
    await store.finish("k", b"answer")
    await advance(ANSWER_KEPT_S - 1)
    assert await store.begin("k", b"request") == b"answer"
    await advance(1)
    assert await store.begin("k", b"another") is None


async def test_the_claim_of_a_call_that_never_ends_runs_out(store: IdempotencyStore, advance: Advance) -> None:
    await store.begin("k", b"request")
    await advance(CLAIM_LEASE_S - 1)
    with pytest.raises(Conflict):
        await store.begin("k", b"request")
    await advance(1)
    assert await store.begin("k", b"request") is None


async def test_finishing_a_key_that_nobody_claims_does_nothing(store: IdempotencyStore) -> None:
    await store.finish("k", b"answer")
    assert await store.begin("k", b"request") is None


async def test_a_key_is_claimed_over_all_workers(redis: Redis) -> None:
    one, other = in_redis(redis), in_redis(redis)
    assert await one.begin("k", b"request") is None
    with pytest.raises(Conflict):
        await other.begin("k", b"request")
    await one.finish("k", b"answer")
    assert await other.begin("k", b"request") == b"answer"


async def test_who_does_not_hold_the_claim_ends_nothing(redis: Redis, advance: Advance) -> None:
    """A call that outlives its lease must not end the claim of its successor."""
    slow, next_one = in_redis(redis), in_redis(redis)
    await slow.begin("k", b"request")
    await redis.delete(*await redis.keys())
    assert await next_one.begin("k", b"request") is None
    await slow.finish("k", b"late")
    with pytest.raises(Conflict):
        await next_one.begin("k", b"request")
    await next_one.finish("k", b"answer")
    assert await slow.begin("k", b"request") == b"answer"


async def test_a_large_answer_is_not_kept_and_its_key_is_free(redis: Redis) -> None:
    store = RedisIdempotencyStore(redis, log=structlog.get_logger(), max_answer_bytes=10)
    await store.begin("k", b"request")
    await store.finish("k", b"x" * 10)
    assert await store.begin("k", b"request") == b"x" * 10
    await store.begin("l", b"request")
    await store.finish("l", b"x" * 11)
    assert await store.begin("l", b"request") is None


async def test_a_key_begins_and_ends_with_its_whole_name(redis: Redis) -> None:
    """Nothing of one caller's key is cut off or joined with another's."""
    store = in_redis(redis)
    names = [
        "ann:text.embed:k",
        "ann:text.embed:",
        "ann:text.embed:k ",
        "ann:text.embed:k\r\nDEL x",
        "ann:text.embed:\u00e9",
    ]
    for name in names:
        assert await store.begin(name, b"request") is None
        await store.finish(name, name.encode())
    assert [await store.begin(name, b"request") for name in names] == [name.encode() for name in names]
    assert len(await redis.keys(KEY_PREFIX + "*")) == len(names)


async def test_without_redis_a_call_with_a_key_is_unavailable(redis_server: RedisServer, redis: Redis) -> None:
    store = in_redis(redis)
    await store.begin("k", b"request")
    await store.begin("l", b"request")
    await store.finish("l", b"kept")
    redis_server.kill()
    try:
        with pytest.raises(Unavailable):
            await store.begin("m", b"request")
        # The call is done and billed: its caller gets the answer.
        await store.finish("k", b"answer")
    finally:
        redis_server.start()
    assert await store.begin("l", b"request") == b"kept"
    assert await store.begin("m", b"request") is None
    with pytest.raises(Conflict):
        await store.begin("k", b"request")
    await store.close()


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_claim_whose_reply_was_not_waited_for_is_withdrawn(
    redis_server: RedisServer, redis: Redis, cancelled: bool
) -> None:
    """The client left, or Redis was slow; the same call may come again at once."""
    client = open_redis(redis_server.url, reply_timeout_s=10 if cancelled else 0.2)
    store = in_redis(client)
    await redis.client_pause(300)
    begun = asyncio.create_task(store.begin("k", b"request"))
    await asyncio.sleep(0.02)
    if cancelled:
        begun.cancel()
    with pytest.raises(asyncio.CancelledError if cancelled else Unavailable):
        await begun
    await asyncio.gather(*store._withdrawals)
    assert await store.begin("k", b"request") is None
    await client.aclose()


async def test_no_call_is_run_twice_when_redis_is_killed_under_load(redis_server: RedisServer, redis: Redis) -> None:
    """Of each key that one call went on with, a repetition gets the answer or a conflict."""
    store, gone_on, refused = in_redis(redis), [], 0
    until = asyncio.get_running_loop().time() + 1.0

    async def caller(number: int) -> None:
        nonlocal refused
        count = 0
        while asyncio.get_running_loop().time() < until:
            key, count = f"{number} {count}", count + 1
            try:
                assert await store.begin(key, b"request") is None
            except Unavailable:
                refused += 1
                await asyncio.sleep(0.01)
                continue
            gone_on.append(key)
            await asyncio.sleep(0.002)
            await store.finish(key, key.encode())

    callers = [asyncio.create_task(caller(number)) for number in range(20)]
    await asyncio.sleep(0.3)
    redis_server.kill()
    await asyncio.sleep(0.1)
    redis_server.start()
    await asyncio.gather(*callers)
    await store.close()
    assert refused
    conflicts = 0
    for key in gone_on:
        try:
            assert await store.begin(key, b"request") == key.encode()
        except Conflict:
            conflicts += 1
    assert conflicts <= 2 * len(callers)


async def test_the_oldest_answers_of_a_subject_make_room_for_its_new_ones(redis: Redis) -> None:
    """Those of others stay; what an answer takes is counted once, however often its key is used; the tables stay exact."""
    answer, room = bytes(1000), 4 * (1000 + 300 + ENTRY_BYTES)
    store = RedisIdempotencyStore(redis, log=structlog.get_logger(), max_bytes_per_subject=room)

    async def keep(key: str) -> None:
        assert await store.begin(key, b"request") is None
        await store.finish(key, answer)

    async def is_kept(key: str) -> bool:
        found = await store.begin(key, b"request")
        if found is None:
            await store.finish(key, None)
        return found is not None

    await keep("other\x1fk")
    for number in range(10):
        await keep(f"ann\x1f{number}")
    kept = [number for number in range(10) if await is_kept(f"ann\x1f{number}")]
    assert kept == [6, 7, 8, 9] or kept == [5, 6, 7, 8, 9]
    assert await is_kept("other\x1fk")
    sizes = {name: int(size) for name, size in (await redis.hgetall(f"{SIZES_PREFIX}ann")).items()}
    total = sizes.pop(b"total")
    assert total == sum(sizes.values()) <= room
    assert len(sizes) == await redis.zcard(f"{AGES_PREFIX}ann") == len(kept)


async def test_answers_that_have_ended_take_no_room(redis: Redis) -> None:
    store = RedisIdempotencyStore(redis, log=structlog.get_logger(), answer_kept_s=0.2)
    for key in ("ann\x1f1", "ann\x1f2"):
        assert await store.begin(key, b"request") is None
        await store.finish(key, b"answer")
    await asyncio.sleep(0.15)
    assert await store.begin("ann\x1f3", b"request") is None
    await store.finish("ann\x1f3", b"answer")
    await asyncio.sleep(0.1)
    assert await store.begin("ann\x1f4", b"request") is None
    await store.finish("ann\x1f4", b"answer")
    sizes = await redis.hgetall(f"{SIZES_PREFIX}ann")
    assert set(sizes) <= {b"total", *(f"{KEY_PREFIX}ann\x1f{n}".encode() for n in (3, 4))}
    await asyncio.sleep(0.3)
    assert await redis.keys("phalanx:idempotency*") == []
