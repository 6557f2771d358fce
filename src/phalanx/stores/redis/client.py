"""The connection to Redis: bounded in time and number, and what its failures are called."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from redis.asyncio import BlockingConnectionPool
from redis.asyncio import Redis as Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from phalanx.errors import Unavailable

CLIENT_NAME = "phalanx"
CONNECT_TIMEOUT_S = 0.5
REPLY_TIMEOUT_S = 0.3
HEALTH_CHECK_S = 30
MAX_CONNECTIONS = 16
SAFE_POLICY = "noeviction"
FAILURES = (RedisError, OSError, TimeoutError)
"""What a command may fail with: the server's answers, the connection's end, time running out."""

REASONS: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...] = (
    ((RedisTimeoutError, TimeoutError), "it did not answer in time"),
    ((AuthenticationError, AuthorizationError), "it refused the credentials"),
    (BusyLoadingError, "it is still loading its data"),
    (OutOfMemoryError, "its memory is full"),
    (ReadOnlyError, "it is a replica that takes no writes"),
    (ResponseError, "it refused the command"),
)


def open_redis(
    url: str,
    *,
    reply_timeout_s: float = REPLY_TIMEOUT_S,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    max_connections: int = MAX_CONNECTIONS,
) -> Redis:
    """Return a client of the Redis at `url` (`redis://`, `rediss://` or `unix://`); it connects when it is first used.

    A command waits at most `connect_timeout_s` for a new connection and `reply_timeout_s` for its answer, and also for
    one of `max_connections` to be free, in seconds. Nothing is tried twice: who asks knows better whether it may be. An
    idle connection is checked before use when it was silent for 30 s. Options in the URL win over these.
    """
    pool = BlockingConnectionPool.from_url(
        url, max_connections=max_connections, timeout=reply_timeout_s, socket_timeout=reply_timeout_s,
        socket_connect_timeout=connect_timeout_s, socket_keepalive=True, health_check_interval=HEALTH_CHECK_S,
        retry=Retry(NoBackoff(), 0), client_name=CLIENT_NAME,
        # The newer protocol and the client's name of itself cost round trips at each connection, and bring nothing here.
        protocol=2, driver_info=None,
    )  # fmt: skip
    return Redis.from_pool(pool)


@contextmanager
def redis_failures() -> Iterator[None]:
    """Turn whatever fails within into `Unavailable`, which names the reason, but no host, command or secret."""
    try:
        yield
    except FAILURES as error:
        raise unavailable(error) from None


def unavailable(error: Exception) -> Unavailable:
    """Return what to raise for one of `FAILURES`."""
    reason = next((text for kind, text in REASONS if isinstance(error, kind)), "it cannot be reached")
    return Unavailable(f"Redis cannot be used: {reason}")


async def eviction_warning(redis: Redis, name: str = "REDIS_URL") -> str | None:
    """Return what is wrong with the eviction policy of a Redis that keeps counters, or None. Raises `Unavailable`.

    `name` is the setting's. INFO tells the policy also where a hosted Redis forbids CONFIG.
    """
    with redis_failures():
        memory = await redis.info("memory")
    policy = str(memory.get("maxmemory_policy", SAFE_POLICY))
    if policy == SAFE_POLICY:
        return None
    return (
        f"{name}: its maxmemory-policy is {policy!r}, so counters, permits and jobs may be dropped when its memory is full; "
        f"set it to {SAFE_POLICY}, and give the cache a Redis of its own (REDIS_CACHE_URL)"
    )
