"""Real servers for tests: PostgreSQL and Redis from the distribution, on free ports of the loopback, stopped at the end."""

from __future__ import annotations

from servers.postgres import PostgresServer
from servers.redis import RedisServer

__all__ = ["PostgresServer", "RedisServer"]
