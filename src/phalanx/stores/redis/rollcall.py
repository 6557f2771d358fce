"""What workers say of what they do together, in Redis."""

from __future__ import annotations

from contextlib import suppress

from redis.asyncio import Redis

from phalanx.errors import Unavailable
from phalanx.stores.redis.client import redis_failures
from phalanx.stores.redis.scripts import load_script

PREFIX = "phalanx:rollcall:"
ALIVE_S = 10.0
SAY = load_script("say")


class RedisRollcall:
    """`Rollcall` in a hash a matter, by Redis's clock. One that has said nothing for `alive_s` (seconds) is taken for dead."""

    def __init__(self, redis: Redis, *, alive_s: float = ALIVE_S) -> None:
        self._redis = redis
        self._alive_ms = round(alive_s * 1e3)
        self._say = redis.register_script(SAY.text)

    async def say(self, matter: str, worker_id: str, word: str) -> dict[str, str]:
        """Say one's word and return everyone's. Raises `Unavailable`."""
        with redis_failures():
            pairs = await self._say(keys=[PREFIX + matter], args=[worker_id, word, self._alive_ms])
        texts = [one.decode() if isinstance(one, bytes) else str(one) for one in pairs]
        return dict(zip(texts[::2], texts[1::2], strict=True))

    async def leave(self, matter: str, worker_id: str) -> None:
        """Have no word any more. While Redis is down the worker is taken for dead soon anyway."""
        with suppress(Unavailable), redis_failures():
            await self._redis.hdel(PREFIX + matter, worker_id)
