"""The books of a run that is over: the ledger's tables, read by SQL and summed by nobody's code but ours, and the counters."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from chaos.record import Event, Group, Sums
from phalanx.services.metering.periods import month_of
from phalanx.stores.memory.clock import SystemClock
from phalanx.stores.redis.client import open_redis
from phalanx.stores.redis.limiter import RedisLimiter

EVENTS = text(
    "SELECT id, organisation, key_id, operation, model, request_id, status, billed, units, tokens, cached"
    " FROM usage_events ORDER BY id"
)
DAILY = text(
    "SELECT day, organisation, key_id, operation, model, requests, billed, units, tokens, cached, errors"
    " FROM usage_daily"
)


async def read_counters(redis_url: str, organisations: Iterable[str]) -> dict[str, int]:
    """Return what the counters of this month's quotas say: what is settled, and what dead workers still hold."""
    redis, clock = open_redis(redis_url), SystemClock()
    limiter = RedisLimiter(redis, clock)
    try:
        return {name: await limiter.used(name, month_of(clock.now())) for name in organisations}
    finally:
        await limiter.close()
        await redis.aclose()


async def read_ledger(database_url: str) -> tuple[list[Event], dict[Group, Sums]]:
    """Return the events in the order of their ids, and the daily sums."""
    driver = {"postgresql": "postgresql+asyncpg", "sqlite": "sqlite+aiosqlite"}
    scheme, rest = database_url.split("://", 1)
    engine = create_async_engine(f"{driver[scheme]}://{rest}")
    try:
        async with engine.connect() as connection:
            events, daily = [(await connection.execute(query)).all() for query in (EVENTS, DAILY)]
    finally:
        await engine.dispose()
    noted = [
        Event(
            id=row.id, day=day_of(row.id), organisation=row.organisation, key_id=row.key_id, operation=row.operation,
            model=row.model, request_id=row.request_id, status=row.status, billed=bool(row.billed), units=row.units,
            tokens=row.tokens, cached=row.cached,
        )
        for row in events
    ]  # fmt: skip
    return noted, {Group(*row[:5]): Sums(*row[5:]) for row in daily}


def day_of(event_id: str) -> str:
    """Return the UTC day inside a UUIDv7, whose first 48 bits are milliseconds since the epoch."""
    milliseconds = int(event_id.replace("-", "")[:12], 16)
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d")
