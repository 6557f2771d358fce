"""The second-level cache of vectors, in Redis."""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Sequence

from redis.asyncio import Redis

from phalanx.ports import CachedVector
from phalanx.stores.redis.client import FAILURES
from phalanx.telemetry import Log

KEY_PREFIX = b"phalanx:vector:"
HEADER = struct.Struct("<BIII")
"""Version of this form, tokens, tokens used, bytes of the vector that follows."""
VERSION = 1
REPLY_S = 0.05
"""A vector costs a few milliseconds to compute: waiting longer for Redis than this gains nothing."""
REPLY_S_PER_KEY = 0.0001
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 5.0
MAX_WAITING = 4096
BATCH = 256


class RedisVectorCache:
    """A `VectorCache` whose vectors live for `ttl_s` seconds in Redis, or until it evicts them.

    Redis is never waited for longer than computing would take: after a failure it is left alone, every look-up is a miss,
    and a task of its own tries, at first after a second and at most every five, whether it answers again. Writing goes on
    beside the call; when vectors come faster than Redis takes them, new ones are dropped.
    """

    def __init__(self, redis: Redis, *, ttl_s: int, log: Log) -> None:
        if ttl_s < 1:
            raise ValueError(f"ttl_s is {ttl_s}; it is at least 1")
        self._redis = redis
        self._ttl_s = ttl_s
        self._log = log
        self._waiting: deque[tuple[bytes, CachedVector]] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._recovery: asyncio.Task[None] | None = None
        self._pause_s = FIRST_PAUSE_S

    @property
    def is_up(self) -> bool:
        """Whether Redis is asked at all."""
        return self._recovery is None

    async def get_many(self, keys: Sequence[bytes]) -> list[CachedVector | None]:
        """Return what is kept under each key, in order; None where there is nothing, or Redis is down."""
        if not keys or self._recovery is not None:
            return [None] * len(keys)
        try:
            async with asyncio.timeout(REPLY_S + REPLY_S_PER_KEY * len(keys)):
                values = await self._redis.mget([KEY_PREFIX + key for key in keys])
        except FAILURES as error:
            self._lose(error)
            return [None] * len(keys)
        self._pause_s = FIRST_PAUSE_S
        return [_unpack(value) for value in values]

    async def set_many(self, entries: Sequence[tuple[bytes, CachedVector]]) -> None:
        """Hand vectors over to be kept; `flush` waits for it."""
        if self._recovery is not None:
            return
        self._waiting.extend(entries[: MAX_WAITING - len(self._waiting)])
        if self._waiting and self._writing is None:
            self._writing = asyncio.create_task(self._write())

    async def flush(self) -> None:
        """Return when what was handed over is kept or given up."""
        if self._writing is not None:
            await asyncio.shield(self._writing)

    async def close(self) -> None:
        """End the tasks. What is not written yet is dropped; the connection is its owner's."""
        self._waiting.clear()
        tasks = [task for task in (self._writing, self._recovery) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _write(self) -> None:
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
                pipeline = self._redis.pipeline(transaction=False)
                for key, vector in batch:
                    pipeline.set(KEY_PREFIX + key, _pack(vector), ex=self._ttl_s)
                # Redis that is full refuses writes and still answers reads: no reason to leave it alone.
                await pipeline.execute(raise_on_error=False)
        except FAILURES as error:
            self._lose(error)
        finally:
            self._writing = None

    def _lose(self, error: Exception) -> None:
        self._waiting.clear()
        if self._recovery is None:
            self._log.warning("the vector cache is left out", error=type(error).__name__)
            self._recovery = asyncio.create_task(self._recover())

    async def _recover(self) -> None:
        try:
            while True:
                await asyncio.sleep(self._pause_s)
                self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
                if await self._answers():
                    self._log.info("the vector cache is used again")
                    return
        finally:
            self._recovery = None

    async def _answers(self) -> bool:
        try:
            await self._redis.ping()
        except FAILURES:
            return False
        return True


def _pack(vector: CachedVector) -> bytes:
    return HEADER.pack(VERSION, vector.tokens, vector.used_tokens, len(vector.vector)) + vector.vector


def _unpack(value: bytes | str | None) -> CachedVector | None:
    """Read a value; what another version wrote, or is cut short, is as good as nothing."""
    if not isinstance(value, bytes) or len(value) < HEADER.size:
        return None
    version, tokens, used_tokens, length = HEADER.unpack_from(value)
    if version != VERSION or length != len(value) - HEADER.size or length % 4:
        return None
    return CachedVector(value[HEADER.size :], tokens, used_tokens)
