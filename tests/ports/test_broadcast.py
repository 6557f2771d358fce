"""What every `Broadcast` does, what the one in Redis does when Redis is gone, and how soon a revocation is known."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any

import pytest
import structlog
from redis.asyncio import Redis

from phalanx.ports import Broadcast, Changes
from phalanx.services.callers.keyring import Keyring
from phalanx.stores.memory.broadcast import MemoryBroadcast
from phalanx.stores.memory.clock import SystemClock
from phalanx.stores.redis import broadcast as redis_broadcast
from phalanx.stores.redis.broadcast import CHANNEL, MAX_MESSAGE_BYTES, SUBJECTS_PER_MESSAGE, RedisBroadcast
from phalanx.stores.redis.client import open_redis
from servers import RedisServer

pytestmark = pytest.mark.anyio

LOG = structlog.get_logger()


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Redis]:
    client = open_redis(redis_server.url)
    yield client
    await client.aclose()


@pytest.fixture(params=["memory", "redis"])
def broadcast(request: pytest.FixtureRequest) -> Broadcast:
    if request.param == "memory":
        return MemoryBroadcast()
    return RedisBroadcast(request.getfixturevalue("redis"), log=LOG)


class Ear:
    """Listens to a broadcast and keeps what it hears."""

    def __init__(self, broadcast: Broadcast) -> None:
        self.heard: list[Sequence[str] | None] = []
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._listen(broadcast))

    async def _listen(self, broadcast: Broadcast) -> None:
        messages: Any = broadcast.messages()
        async with aclosing(messages):
            async for subjects in messages:
                self.heard.append(subjects)
                self._news.set()

    async def until(self, enough: Callable[[list[Sequence[str] | None]], bool]) -> None:
        async with asyncio.timeout(10):
            while not enough(self.heard):
                self._news.clear()
                await self._news.wait()

    @property
    def subjects(self) -> list[str]:
        return [subject for message in self.heard if message is not None for subject in message]

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def listen(broadcast: Broadcast, *, redis: bool) -> Ear:
    """Return an ear that hears already."""
    ear = Ear(broadcast)
    await (ear.until(lambda heard: None in heard) if redis else asyncio.sleep(0.01))
    return ear


async def test_all_workers_hear_it(broadcast: Broadcast) -> None:
    ears = [await listen(broadcast, redis=isinstance(broadcast, RedisBroadcast)) for _ in range(3)]
    await broadcast.publish(["key:a", "session:b"])
    await broadcast.publish(["key:c"])
    for ear in ears:
        await ear.until(lambda heard: ["key:c"] in heard)
        assert ear.subjects == ["key:a", "session:b", "key:c"]
        await ear.close()


async def test_that_nobody_listens_is_no_error(broadcast: Broadcast) -> None:
    await broadcast.publish(["key:a"])
    await broadcast.publish([])


async def test_many_subjects_are_several_messages(redis: Redis) -> None:
    air = RedisBroadcast(redis, log=LOG)
    ear = await listen(air, redis=True)
    subjects = [f"key:{n:064x}" for n in range(3 * SUBJECTS_PER_MESSAGE + 1)]
    await air.publish(subjects)
    await ear.until(lambda heard: len(ear.subjects) == len(subjects))
    assert ear.subjects == subjects
    assert [len(message or ()) for message in ear.heard] == [0, 500, 500, 500, 1]
    await ear.close()


@pytest.mark.parametrize("data", [b"", b"{", b"7", b'["a", 7]', b"\xff\x00", b'["' + b"x" * MAX_MESSAGE_BYTES + b'"]'])
async def test_what_cannot_be_read_counts_as_missed(redis: Redis, data: bytes) -> None:
    air = RedisBroadcast(redis, log=LOG)
    ear = await listen(air, redis=True)
    await redis.publish(CHANNEL, data)
    await air.publish(["key:a"])
    await ear.until(lambda heard: ["key:a"] in heard)
    assert ear.heard == [None, None, ["key:a"]]
    await ear.close()


async def test_after_redis_was_gone_it_says_that_messages_may_be_missing(
    redis_server: RedisServer, redis: Redis
) -> None:
    air = RedisBroadcast(redis, log=LOG)
    ear = await listen(air, redis=True)
    redis_server.kill()
    try:
        await air.publish(["key:lost"])
        await asyncio.sleep(0.3)
    finally:
        redis_server.start()
    await ear.until(lambda heard: heard.count(None) >= 2)
    await air.publish(["key:a"])
    await ear.until(lambda heard: ["key:a"] in heard)
    assert ear.subjects == ["key:a"]
    await ear.close()


async def test_a_connection_that_was_cut_is_told(redis: Redis) -> None:
    air = RedisBroadcast(redis, log=LOG)
    ear = await listen(air, redis=True)
    await redis.client_kill_filter(_type="pubsub")
    await ear.until(lambda heard: heard.count(None) >= 2)
    await air.publish(["key:a"])
    await ear.until(lambda heard: ["key:a"] in heard)
    await ear.close()


async def test_a_listener_is_there_before_redis_is(redis_server: RedisServer, redis: Redis) -> None:
    redis_server.kill()
    try:
        ear = Ear(RedisBroadcast(redis, log=LOG))
        await asyncio.sleep(0.2)
        assert ear.heard == []
    finally:
        redis_server.start()
    await ear.until(lambda heard: None in heard)
    await ear.close()


async def test_silence_is_asked_whether_it_lives(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """A healthy connection on which nothing is said stays; one that swallows everything is given up."""
    monkeypatch.setattr(redis_broadcast, "SILENCE_S", 0.05)
    ear = await listen(RedisBroadcast(redis, log=LOG), redis=True)
    await asyncio.sleep(0.3)
    assert ear.heard == [None]
    await redis.client_pause(300)
    await ear.until(lambda heard: heard.count(None) >= 2)
    await ear.close()


class Ledger:
    """What both rings' stores read: one key, and the feed of its changes."""

    def __init__(self) -> None:
        self.state = "valid"
        self.subjects: list[str] = []

    async def find(self, name: str) -> Any:
        return self.state

    standing = find

    async def touch(self, used: dict[str, float]) -> None:
        return

    async def version(self) -> int:
        return len(self.subjects)

    async def since(self, version: int, *, limit: int = 10_000) -> Changes:
        return Changes(len(self.subjects), self.subjects[version:])

    def revoke(self) -> None:
        self.state = "revoked"
        self.subjects.append("key:a")


async def replica(ledger: Any, air: Broadcast) -> Any:
    """Return a ring of texts that holds the key as valid."""
    ring: Any = Keyring(ledger, ledger, SystemClock(), log=LOG)
    await ring.start(ledger, air, is_shared=True)
    await asyncio.sleep(0.2)
    assert await ring.find_key("a") == "valid"
    assert ring.peek_key("a") == "valid"
    return ring


async def revoked_within(ring: Any, seconds: float) -> float:
    loop = asyncio.get_running_loop()
    started = loop.time()
    async with asyncio.timeout(seconds):
        while await ring.find_key("a") != "revoked":  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    return loop.time() - started


async def test_a_revocation_reaches_another_replica_within_a_second(redis_server: RedisServer, redis: Redis) -> None:
    ledger, air = Ledger(), RedisBroadcast(redis, log=LOG)
    rings = [await replica(ledger, air) for _ in range(2)]
    # Right after a reading of the feed, so that the next one is two seconds away.
    await asyncio.sleep(0.1)
    ledger.revoke()
    await air.publish(["key:a"])
    for ring in rings:
        assert await revoked_within(ring, 1.0) < 1.0
        await ring.close()


async def test_without_redis_the_feed_brings_it_within_two_seconds(redis_server: RedisServer, redis: Redis) -> None:
    ledger, air = Ledger(), RedisBroadcast(redis, log=LOG)
    ring = await replica(ledger, air)
    redis_server.kill()
    try:
        await asyncio.sleep(0.1)
        ledger.revoke()
        await air.publish(["key:a"])
        await revoked_within(ring, 2.5)
    finally:
        redis_server.start()
    await ring.close()


async def test_a_revocation_that_was_published_to_nobody_counts_on_reconnection(
    redis_server: RedisServer, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The feed is silent here: the gap alone makes the ring check."""
    monkeypatch.setattr("phalanx.services.callers.keyring.POLL_S", 60.0)
    ledger, air = Ledger(), RedisBroadcast(redis, log=LOG)
    ring = await replica(ledger, air)
    redis_server.kill()
    try:
        ledger.revoke()
        await air.publish(["key:a"])
        assert ring.peek_key("a") == "valid"
    finally:
        redis_server.start()
    await revoked_within(ring, 5.0)
    await ring.close()
