"""Notices to be delivered, in the Redis of the queues: one sorted set by when they are due, one hash of what they say."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from phalanx.ports.webhooks import Notice, Put
from phalanx.stores.redis.client import Redis, redis_failures

DUE, SAID = "phalanx:webhooks:due", "phalanx:webhooks:said"

_PUT = """
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 then return 1 end
if redis.call('HLEN', KEYS[2]) >= tonumber(ARGV[4]) then return 2 end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
return 0
"""
_CLAIM = """
local found = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[3])) do
  local said = redis.call('HGET', KEYS[2], id)
  if said then
    redis.call('ZADD', KEYS[1], ARGV[2], id)
    found[#found + 1] = said
  else
    redis.call('ZREM', KEYS[1], id)
  end
end
return found
"""
_PUT_BACK = """
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 0 then return 0 end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
return 1
"""
_OUTCOMES: tuple[Put, ...] = ("new", "known", "full")


class RedisOutbox:
    """An `Outbox` of `max_notices`. The connection is its maker's to close."""

    def __init__(self, redis: Redis, *, max_notices: int) -> None:
        self._redis = redis
        self._max_notices = max_notices
        self._put, self._claim, self._put_back = map(redis.register_script, (_PUT, _CLAIM, _PUT_BACK))

    async def put(self, notice: Notice, *, due_at: float) -> Put:
        """Keep a notice."""
        args: list[str | bytes | float] = [notice.id, msgspec.msgpack.encode(notice), due_at, self._max_notices]
        with redis_failures():
            return _OUTCOMES[int(await self._put(keys=[DUE, SAID], args=args))]

    async def claim(self, limit: int, *, now: float, lease_s: float) -> Sequence[Notice]:
        """Return notices that are due."""
        with redis_failures():
            found = await self._claim(keys=[DUE, SAID], args=[now, now + lease_s, limit])
        return [msgspec.msgpack.decode(said, type=Notice) for said in found]

    async def put_back(self, notice: Notice, *, due_at: float) -> None:
        """Have a notice claimed again later."""
        args: list[str | bytes | float] = [notice.id, msgspec.msgpack.encode(notice), due_at]
        with redis_failures():
            await self._put_back(keys=[DUE, SAID], args=args)

    async def remove(self, notice_id: str) -> None:
        """Forget a notice."""
        with redis_failures():
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.hdel(SAID, notice_id)
                pipe.zrem(DUE, notice_id)
                await pipe.execute()
