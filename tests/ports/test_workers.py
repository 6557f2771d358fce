"""What every `Workers` does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from phalanx.errors import Unavailable
from phalanx.ports import Workers
from phalanx.stores.memory.clock import SystemClock
from phalanx.stores.memory.workers import MemoryWorkers
from phalanx.stores.redis.client import open_redis
from phalanx.stores.redis.workers import RedisWorkers
from servers import RedisServer

pytestmark = pytest.mark.anyio
ALIVE_S = 0.3


@pytest.fixture(params=["memory", "redis"])
async def workers(request: pytest.FixtureRequest) -> AsyncIterator[Workers]:
    if request.param == "memory":
        yield MemoryWorkers(SystemClock(), alive_s=ALIVE_S)
        return
    server: RedisServer = request.getfixturevalue("redis_server")
    async with open_redis(server.url, reply_timeout_s=2.0) as redis:
        await redis.flushdb()
        yield RedisWorkers(redis, alive_s=ALIVE_S)


async def test_each_worker_counts_once(workers: Workers) -> None:
    assert [await workers.beat(name) for name in ("a", "b", "a", "c", "b")] == [1, 2, 2, 3, 3]


async def test_a_worker_that_goes_counts_no_more(workers: Workers) -> None:
    await workers.beat("a")
    await workers.beat("b")
    await workers.leave("b")
    await workers.leave("b")
    await workers.leave("unknown")
    assert await workers.beat("a") == 1


async def test_a_worker_that_is_silent_counts_no_more(workers: Workers) -> None:
    await workers.beat("dead")
    for _ in range(4):
        await asyncio.sleep(ALIVE_S / 3)
        count = await workers.beat("alive")
    assert count == 1
    assert await workers.beat("dead") == 2


async def test_beats_at_once_are_all_counted(workers: Workers) -> None:
    counts = await asyncio.gather(*(workers.beat(f"worker {n}") for n in range(20)))
    assert max(counts) == 20


async def test_while_redis_is_down_a_beat_fails_and_a_farewell_does_not(redis_server: RedisServer) -> None:
    async with open_redis(redis_server.url) as redis:
        await redis.flushdb()
        workers = RedisWorkers(redis)
        await workers.beat("a")
        redis_server.kill()
        try:
            with pytest.raises(Unavailable):
                await workers.beat("a")
            await workers.leave("a")
        finally:
            redis_server.start()
        assert await workers.beat("b") == 2
