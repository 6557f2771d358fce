"""The connection to Redis: its limits in time and number, and what is said when it fails."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from phalanx.errors import Unavailable
from phalanx.stores.redis.client import eviction_warning, open_redis, redis_failures
from servers import RedisServer

pytestmark = pytest.mark.anyio


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Redis]:
    async with open_redis(redis_server.url) as redis:
        yield redis


async def test_a_connection_says_who_it_is(redis: Redis) -> None:
    assert {client["name"] for client in await redis.client_list()} == {"phalanx"}


async def test_a_server_that_is_gone_cannot_be_reached(redis: Redis, redis_server: RedisServer) -> None:
    await redis.ping()
    redis_server.kill()
    try:
        with pytest.raises(Unavailable) as raised, redis_failures():
            await redis.get("a")
    finally:
        redis_server.start()
    assert raised.value.detail == "Redis cannot be used: it cannot be reached"
    assert raised.value.__cause__ is None
    assert await redis.ping()


async def test_a_server_that_hangs_is_waited_for_as_long_as_said(redis_server: RedisServer) -> None:
    assert redis_server._process is not None
    async with open_redis(redis_server.url, reply_timeout_s=0.1) as redis:
        await redis.ping()
        os.kill(redis_server._process.pid, signal.SIGSTOP)
        try:
            begun = time.monotonic()
            with pytest.raises(Unavailable, match="did not answer in time"), redis_failures():
                await redis.get("a")
            assert 0.1 <= time.monotonic() - begun < 0.4
        finally:
            os.kill(redis_server._process.pid, signal.SIGCONT)


async def test_a_connection_of_a_crowd_is_waited_for(redis_server: RedisServer) -> None:
    async with open_redis(redis_server.url, reply_timeout_s=60.0, max_connections=2) as redis:
        await redis.set("a", 1)
        assert await asyncio.gather(*(redis.get("a") for _ in range(200))) == [b"1"] * 200
        assert len(await redis.client_list()) <= 2


async def test_a_wrong_password_is_named_as_such_and_not_shown(redis: Redis, redis_server: RedisServer) -> None:
    await redis.config_set("requirepass", "right")
    wrong = redis_server.url.replace("redis://", "redis://:s3cret@")
    try:
        async with open_redis(wrong) as stranger:
            with pytest.raises(Unavailable, match="refused the credentials") as raised, redis_failures():
                await stranger.get("a")
    finally:
        await redis.config_set("requirepass", "")
    assert "s3cret" not in f"{raised.value}{raised.value.__cause__}"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(113, "No route to host 10.1.2.3"), "it cannot be reached"),
        (TimeoutError(), "it did not answer in time"),
        (NoPermissionError("this user has no permissions to run 'set s3cret'"), "it refused the command"),
    ],
)
def test_every_failure_has_a_reason(error: Exception, said: str) -> None:
    with pytest.raises(Unavailable) as raised, redis_failures():
        raise error
    assert raised.value.detail == f"Redis cannot be used: {said}"


def test_other_errors_pass() -> None:
    with pytest.raises(KeyError), redis_failures():
        raise KeyError


async def test_a_redis_that_evicts_is_warned_of(redis: Redis) -> None:
    assert await eviction_warning(redis) is None
    await redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        warning = await eviction_warning(redis, "QUEUE_REDIS_URL")
    finally:
        await redis.config_set("maxmemory-policy", "noeviction")
    assert warning is not None
    assert warning.startswith("QUEUE_REDIS_URL: its maxmemory-policy is 'allkeys-lru'")
    assert "noeviction" in warning
