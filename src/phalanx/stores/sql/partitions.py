"""Partitions of the usage events on PostgreSQL: one for each day inside the id, and a default one for odd ids.

A partition is built beside the table and attached, which lets others go on reading and writing (`CREATE … PARTITION OF`
would lock the whole table). Makers and droppers take turns under an advisory lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from phalanx.stores.days import DAY_S, day_at, id_bounds
from phalanx.stores.sql.database import Database

FIRST_DAY = "2020-01-01"
AHEAD_DAYS = 1
# A number that nothing else in the database uses as an advisory lock.
PARTITIONS_LOCK = int.from_bytes(b"phalpart", "big")
DELETE_STEP = 5_000


class Partitions:
    """Makes partitions before they are needed, and drops those of days gone by. `now` gives epoch seconds.

    A day before 2020 or beyond tomorrow can only be in an odd id or come from a wrong clock. It gets no partition: its
    events are in the default one, until their day has come and they are moved.
    """

    def __init__(self, database: Database, now: Callable[[], float]) -> None:
        self._database = database
        self._now = now
        self._made: set[str] = set()

    async def make(self, days: Iterable[str]) -> None:
        """Make the partitions of these days, of today and of tomorrow, unless they are there. Raises `Unavailable`."""
        now = self._now()
        ahead = [day_at(now + n * DAY_S) for n in range(AHEAD_DAYS + 1)]
        wanted = {day for day in days if FIRST_DAY <= day < ahead[-1]}.union(ahead) - self._made
        if not wanted:
            return
        async with self._database.transaction() as connection:
            await _take_turn(connection)
            for day in sorted(wanted - set(await _existing(connection))):
                await _make(connection, day)
        self._made |= wanted

    async def drop(self, *, before: str) -> None:
        """Drop the partitions of days before one, and delete such events from the default one. Raises `Unavailable`."""
        async with self._database.transaction() as connection:
            gone = [day for day in await _existing(connection) if day < before]
        for day in sorted(gone):
            async with self._database.transaction() as connection:
                await _take_turn(connection)
                await connection.execute(text(f"DROP TABLE IF EXISTS {_name(day)}"))
            self._made.discard(day)
        deleted = DELETE_STEP
        while deleted == DELETE_STEP:
            async with self._database.transaction() as connection:
                result = await connection.execute(DELETE_ODD, {"before": before, "step": DELETE_STEP})
                deleted = result.rowcount


DELETE_ODD = text(
    "DELETE FROM usage_events_default WHERE id IN (SELECT id FROM usage_events_default WHERE day < :before LIMIT :step)"
)


async def _take_turn(connection: AsyncConnection) -> None:
    await connection.execute(text(f"SELECT pg_advisory_xact_lock({PARTITIONS_LOCK})"))


async def _existing(connection: AsyncConnection) -> list[str]:
    """Return the days that have a partition."""
    query = text(
        "SELECT child.relname FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid "
        "WHERE inhparent = 'usage_events'::regclass AND child.relname <> 'usage_events_default'"
    )
    names = [row[0].rpartition("_")[2] for row in await connection.execute(query)]
    return [f"{name[:4]}-{name[4:6]}-{name[6:]}" for name in names]


async def _make(connection: AsyncConnection, day: str) -> None:
    name, (low, high) = _name(day), id_bounds(day)
    await connection.execute(text(f"CREATE TABLE {name} (LIKE usage_events INCLUDING ALL)"))
    # The whole lock at once: two who first read and then want more would wait for each other.
    await connection.execute(text("LOCK TABLE usage_events_default IN ACCESS EXCLUSIVE MODE"))
    await connection.execute(
        text(
            "WITH moved AS (DELETE FROM usage_events_default WHERE id >= :low AND id < :high RETURNING *) "  # noqa: S608
            f"INSERT INTO {name} SELECT * FROM moved"
        ),
        {"low": low, "high": high},
    )
    await connection.execute(
        text(f"ALTER TABLE usage_events ATTACH PARTITION {name} FOR VALUES FROM ('{low}') TO ('{high}')")
    )


def _name(day: str) -> str:
    return f"usage_events_{day.replace('-', '')}"
