"""The second level of caches, in Redis."""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple

from redis.asyncio import Redis

from phalanx.ports import CachedVector
from phalanx.ports.caches import V
from phalanx.stores.redis.client import FAILURES
from phalanx.telemetry import Log

REPLY_S = 0.05
"""A vector or a face costs a few milliseconds to compute: waiting longer for Redis than this gains nothing."""
REPLY_S_PER_KEY = 0.0001
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 5.0
MAX_WAITING = 4096
MAX_WAITING_BYTES = 16 * 2**20
BATCH = 256


class Form(NamedTuple, Generic[V]):
    """How values of one kind stand in Redis: under `prefix` and their key, as `pack` has them.

    `unpack` returns None for what another version wrote, or is cut short: it is as good as nothing.
    """

    prefix: bytes
    pack: Callable[[V], bytes]
    unpack: Callable[[bytes], V | None]


class RedisCache(Generic[V]):
    """A `Cache` whose values live for `ttl_s` seconds in Redis, or until it evicts them.

    Redis is never waited for longer than computing would take: after a failure it is left alone, every look-up is a miss,
    and a task of its own tries, at first after a second and at most every five, whether it answers again. Writing goes on
    beside the call; when values come faster than Redis takes them, new ones are dropped.
    """

    def __init__(self, redis: Redis, form: Form[V], *, ttl_s: int, log: Log) -> None:
        if ttl_s < 1:
            raise ValueError(f"ttl_s is {ttl_s}; it is at least 1")
        self._redis = redis
        self._form = form
        self._ttl_s = ttl_s
        self._log = log
        self._waiting: deque[tuple[bytes, bytes]] = deque()
        self._waiting_bytes = 0
        self._writing: asyncio.Task[None] | None = None
        self._recovery: asyncio.Task[None] | None = None
        self._pause_s = FIRST_PAUSE_S

    @property
    def is_up(self) -> bool:
        """Whether Redis is asked at all."""
        return self._recovery is None

    async def get_many(self, keys: Sequence[bytes]) -> list[V | None]:
        """Return what is kept under each key, in order; None where there is nothing, or Redis is down."""
        if not keys or self._recovery is not None:
            return [None] * len(keys)
        try:
            async with asyncio.timeout(REPLY_S + REPLY_S_PER_KEY * len(keys)):
                values = await self._redis.mget([self._form.prefix + key for key in keys])
        except FAILURES as error:
            self._lose(error)
            return [None] * len(keys)
        self._pause_s = FIRST_PAUSE_S
        return [self._form.unpack(value) if isinstance(value, bytes) else None for value in values]

    async def set_many(self, entries: Sequence[tuple[bytes, V]]) -> None:
        """Hand values over to be kept; `flush` waits for it."""
        if self._recovery is not None:
            return
        for key, value in entries:
            packed = self._form.pack(value)
            if len(self._waiting) >= MAX_WAITING or self._waiting_bytes + len(packed) > MAX_WAITING_BYTES:
                break
            self._waiting.append((key, packed))
            self._waiting_bytes += len(packed)
        if self._waiting and self._writing is None:
            self._writing = asyncio.create_task(self._write())

    async def flush(self) -> None:
        """Return when what was handed over is kept or given up."""
        if self._writing is not None:
            await asyncio.shield(self._writing)

    async def close(self) -> None:
        """End the tasks. What is not written yet is dropped; the connection is its owner's."""
        self._forget()
        tasks = [task for task in (self._writing, self._recovery) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _write(self) -> None:
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
                pipeline = self._redis.pipeline(transaction=False)
                for key, packed in batch:
                    self._waiting_bytes -= len(packed)
                    pipeline.set(self._form.prefix + key, packed, ex=self._ttl_s)
                # Redis that is full refuses writes and still answers reads: no reason to leave it alone.
                await pipeline.execute(raise_on_error=False)
        except FAILURES as error:
            self._lose(error)
        finally:
            self._writing = None

    def _forget(self) -> None:
        self._waiting.clear()
        self._waiting_bytes = 0

    def _lose(self, error: Exception) -> None:
        self._forget()
        if self._recovery is None:
            self._log.warning(
                "the cache in Redis is left out", cache=self._form.prefix.decode(), error=type(error).__name__
            )
            self._recovery = asyncio.create_task(self._recover())

    async def _recover(self) -> None:
        try:
            while True:
                await asyncio.sleep(self._pause_s)
                self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
                if await self._answers():
                    self._log.info("the cache in Redis is used again", cache=self._form.prefix.decode())
                    return
        finally:
            self._recovery = None

    async def _answers(self) -> bool:
        try:
            await self._redis.ping()
        except FAILURES:
            return False
        return True


VECTOR_HEADER = struct.Struct("<BIII")
"""Version of this form, tokens, tokens used, bytes of the vector that follows."""
VECTOR_VERSION = 1
RESULT_HEADER = struct.Struct("<BI")
"""Version of this form, bytes of the result that follows."""
RESULT_VERSION = 1


def _pack_vector(vector: CachedVector) -> bytes:
    header = VECTOR_HEADER.pack(VECTOR_VERSION, vector.tokens, vector.used_tokens, len(vector.vector))
    return header + vector.vector


def _unpack_vector(value: bytes) -> CachedVector | None:
    if len(value) < VECTOR_HEADER.size:
        return None
    version, tokens, used_tokens, length = VECTOR_HEADER.unpack_from(value)
    if version != VECTOR_VERSION or length != len(value) - VECTOR_HEADER.size or length % 4:
        return None
    return CachedVector(value[VECTOR_HEADER.size :], tokens, used_tokens)


def _pack_result(result: bytes) -> bytes:
    return RESULT_HEADER.pack(RESULT_VERSION, len(result)) + result


def _unpack_result(value: bytes) -> bytes | None:
    if len(value) < RESULT_HEADER.size:
        return None
    version, length = RESULT_HEADER.unpack_from(value)
    if version != RESULT_VERSION or length != len(value) - RESULT_HEADER.size:
        return None
    return value[RESULT_HEADER.size :]


VECTORS = Form(b"phalanx:vector:", _pack_vector, _unpack_vector)
"""Vectors of texts: about 1.6 KB each."""
RESULTS = Form(b"phalanx:result:", _pack_result, _unpack_result)
"""What was computed of images, encoded by who computed it."""
