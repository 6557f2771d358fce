"""What every `Rollcall` does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from phalanx.errors import Unavailable
from phalanx.ports import Rollcall
from phalanx.stores.memory.clock import SystemClock
from phalanx.stores.memory.rollcall import MemoryRollcall
from phalanx.stores.redis.client import open_redis
from phalanx.stores.redis.rollcall import RedisRollcall
from servers import RedisServer

pytestmark = pytest.mark.anyio
ALIVE_S = 1.0


@pytest.fixture(params=["memory", "redis"])
async def rollcall(request: pytest.FixtureRequest) -> AsyncIterator[Rollcall]:
    if request.param == "memory":
        yield MemoryRollcall(SystemClock(), alive_s=ALIVE_S)
        return
    server: RedisServer = request.getfixturevalue("redis_server")
    async with open_redis(server.url) as redis:
        await redis.flushdb()
        yield RedisRollcall(redis, alive_s=ALIVE_S)


async def test_each_worker_has_its_latest_word(rollcall: Rollcall) -> None:
    assert await rollcall.say("model", "a", "loads 1=1") == {"a": "loads 1=1"}
    assert await rollcall.say("model", "b", "") == {"a": "loads 1=1", "b": ""}
    said = "refuses 1=1: a\nreason, with  spaces and ünïcödé"
    assert await rollcall.say("model", "a", said) == {"a": said, "b": ""}


async def test_matters_are_apart(rollcall: Rollcall) -> None:
    await rollcall.say("one", "a", "x")
    assert await rollcall.say("another", "b", "y") == {"b": "y"}


async def test_who_leaves_has_no_word(rollcall: Rollcall) -> None:
    await rollcall.say("model", "a", "x")
    await rollcall.leave("model", "a")
    await rollcall.leave("model", "a")
    await rollcall.leave("nothing", "a")
    assert await rollcall.say("model", "b", "y") == {"b": "y"}


async def test_who_is_silent_is_taken_for_dead(rollcall: Rollcall) -> None:
    await rollcall.say("model", "dead", "x")
    for _ in range(4):
        await asyncio.sleep(ALIVE_S / 3)
        words = await rollcall.say("model", "alive", "y")
    assert words == {"alive": "y"}


async def test_while_redis_is_down_a_word_fails_and_a_farewell_does_not(redis_server: RedisServer) -> None:
    async with open_redis(redis_server.url) as redis:
        await redis.flushdb()
        rollcall = RedisRollcall(redis)
        await rollcall.say("model", "a", "x")
        redis_server.kill()
        try:
            with pytest.raises(Unavailable):
                await rollcall.say("model", "a", "x")
            await rollcall.leave("model", "a")
        finally:
            redis_server.start()
        assert (await rollcall.say("model", "b", "y"))["b"] == "y"
