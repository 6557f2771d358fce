"""What BullMQ's stream of events says of jobs, for those who follow one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

BLOCK_MS = 5_000
ANSWER_S = 5.0
AGAIN_S = 1.0
IN_A_READ = 500


class JobEvents:
    """Reads one queue's stream while somebody follows a job of it, over a connection of its own.

    While Redis is away nothing is told. Whoever begins to follow is told of whatever happens from then on, at least once.
    """

    def __init__(self, url: str, stream: str) -> None:
        self._redis: Any = Redis.from_url(
            url, decode_responses=True, encoding_errors="replace", socket_timeout=BLOCK_MS / 1000 + ANSWER_S,
            socket_connect_timeout=ANSWER_S, retry=Retry(NoBackoff(), 0),
        )  # fmt: skip
        self._stream = stream
        self._watching: dict[str, set[asyncio.Event]] = {}
        self._reading: asyncio.Task[None] | None = None

    @contextmanager
    def watch(self, job_id: str) -> Iterator[asyncio.Event]:
        """Have an event set whenever the stream has something of a job."""
        changed = asyncio.Event()
        watching = self._watching.setdefault(job_id, set())
        watching.add(changed)
        if self._reading is None:
            self._reading = asyncio.create_task(self._read(), name="events of jobs")
        try:
            yield changed
        finally:
            watching.discard(changed)
            if not watching:
                self._watching.pop(job_id, None)
            if not self._watching and self._reading is not None:
                self._reading.cancel()
                self._reading = None

    async def close(self) -> None:
        """Close the connection."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        await self._redis.aclose()

    async def _read(self) -> None:
        while True:
            try:
                await self._follow()
            except RedisError:
                await asyncio.sleep(AGAIN_S)

    async def _follow(self) -> None:
        latest = await self._redis.xrevrange(self._stream, count=1)
        seen = latest[0][0] if latest else "0-0"
        # What happened until now was read by nobody.
        self._tell(tuple(self._watching))
        while True:
            for _, entries in await self._redis.xread({self._stream: seen}, count=IN_A_READ, block=BLOCK_MS):
                seen = entries[-1][0]
                self._tell(tuple({fields.get("jobId", "") for _, fields in entries}))

    def _tell(self, job_ids: tuple[str, ...]) -> None:
        for job_id in job_ids:
            for changed in self._watching.get(job_id, ()):
                changed.set()
