"""PostgreSQL and Redis for a measurement: the servers that the tests start, on free ports."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from servers import PostgresServer as PostgresServer
from servers import RedisServer as RedisServer


@contextmanager
def postgres_and_redis() -> Iterator[Mapping[str, str]]:
    """Start both and yield the settings that name them."""
    postgres, redis = PostgresServer(), RedisServer("--appendfsync", "everysec")
    try:
        postgres.start()
        redis.start()
        yield {"DATABASE_URL": postgres.create_database(), "REDIS_URL": redis.url}
    finally:
        postgres.remove()
        redis.remove()
