"""Scripts on a connection of their own: what counts as Redis's silence, and what does not."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator

import pytest

from phalanx.errors import Unavailable
from phalanx.stores.redis.client import open_redis
from phalanx.stores.redis.scripts import Script, ScriptCall, ScriptConnection
from servers import RedisServer

pytestmark = pytest.mark.anyio
ECHO = Script("return ARGV[1]")
LIMIT_S = 0.2


@pytest.fixture
async def connection(redis_server: RedisServer) -> AsyncIterator[ScriptConnection]:
    redis = open_redis(redis_server.url)
    opened = ScriptConnection(redis, [ECHO], round_trip_s=LIMIT_S)
    yield opened
    await opened.close()
    await redis.aclose()


async def test_a_loop_that_was_held_up_does_not_take_redis_for_lost(connection: ScriptConnection) -> None:
    """The answer lies in the socket by the time the limit is looked at."""
    call = ScriptCall(ECHO, [], ["there"])
    assert await connection.run([call]) == [b"there"]
    asking = asyncio.create_task(connection.run([call]))
    await asyncio.sleep(0)
    time.sleep(3 * LIMIT_S)  # noqa: ASYNC251  whatever holds the loop up
    assert await asking == [b"there"]


async def test_a_redis_that_is_silent_is_given_up_after_the_limit(
    connection: ScriptConnection, redis_server: RedisServer
) -> None:
    """And used again once it answers."""
    call = ScriptCall(ECHO, [], ["there"])
    await connection.run([call])
    assert redis_server._process is not None
    os.kill(redis_server._process.pid, signal.SIGSTOP)
    try:
        begun = time.perf_counter()
        with pytest.raises(Unavailable, match="did not answer in time"):
            await connection.run([call])
        assert LIMIT_S * 0.9 < time.perf_counter() - begun < LIMIT_S * 3
    finally:
        os.kill(redis_server._process.pid, signal.SIGCONT)
    assert await connection.run([call]) == [b"there"]
