"""Which workers live, by heartbeats in Redis."""

from __future__ import annotations

from contextlib import suppress

from redis.asyncio import Redis

from phalanx.errors import Unavailable
from phalanx.stores.redis.client import redis_failures
from phalanx.stores.redis.scripts import load_script

KEY = "phalanx:workers"
ALIVE_S = 10.0
BEAT = load_script("beat")


class RedisWorkers:
    """`Workers` in a sorted set, by Redis's clock. One that has not beaten for `alive_s` (seconds) is taken for dead."""

    def __init__(self, redis: Redis, *, key: str = KEY, alive_s: float = ALIVE_S) -> None:
        self._redis = redis
        self._key = key
        self._alive_ms = round(alive_s * 1e3)
        self._beat = redis.register_script(BEAT.text)

    async def beat(self, worker_id: str) -> int:
        """Say that this worker lives and return how many do, this one included. Raises `Unavailable`."""
        with redis_failures():
            return int(await self._beat(keys=[self._key], args=[worker_id, self._alive_ms]))

    async def leave(self, worker_id: str) -> None:
        """Say that this worker goes. While Redis is down it is taken for dead soon anyway."""
        with suppress(Unavailable), redis_failures():
            await self._redis.zrem(self._key, worker_id)
