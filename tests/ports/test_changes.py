"""What every `ChangeFeed` does, and that on databases nobody who follows it misses anything."""

from __future__ import annotations

import asyncio
import time

import pytest
from sqlalchemy import insert, select, update

from callers import Callers, in_database, make_key
from phalanx.ports import Changes
from phalanx.stores.memory import directory
from phalanx.stores.memory.changes import MemoryChangeFeed
from phalanx.stores.memory.directory import MemoryDirectory
from phalanx.stores.sql.changes import SqlChangeFeed, tell
from phalanx.stores.sql.database import Database, open_database
from phalanx.stores.sql.tables import changes

pytestmark = pytest.mark.anyio

WRITERS = 8
EACH = 12


def key(n: int) -> str:
    return f"key:{n:064x}"


async def revoke(callers: Callers, *numbers: int) -> None:
    for n in numbers:
        await callers.keys.add(make_key(n))
        await callers.keys.revoke(f"key-{n}", at=2_000.0)


async def test_nothing_changed_yet(callers: Callers) -> None:
    assert await callers.changes.version() == 0
    assert await callers.changes.since(0) == Changes(0, [])


async def test_changes_are_told_in_order_from_where_one_was(callers: Callers) -> None:
    await revoke(callers, 3, 1)
    version = await callers.changes.version()
    assert await callers.changes.since(version) == Changes(version, [])
    await revoke(callers, 2, 4)
    assert await callers.news(version) == [key(2), key(4)]
    assert await callers.news(0) == [key(3), key(1), key(2), key(4)]


async def test_a_version_that_never_was_is_not_told(callers: Callers) -> None:
    """As after a backup from before it was restored."""
    await revoke(callers, 1)
    assert await callers.changes.since(await callers.changes.version() + 5) is None


async def test_too_much_is_not_told(callers: Callers) -> None:
    await revoke(callers, 1, 2, 3)
    found = await callers.changes.since(0, limit=3)
    assert found is not None
    assert found.subjects == [key(1), key(2), key(3)]
    assert await callers.changes.since(0, limit=2) is None


async def test_what_fails_is_not_told(callers: Callers) -> None:
    await callers.keys.add(make_key(1))
    await asyncio.gather(
        *(callers.keys.rotate("key-1", make_key(2, id="key-1"), expires_at=1.0) for _ in range(3)),
        return_exceptions=True,
    )
    assert await callers.news(0) == []


async def test_memory_keeps_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "MAX_CHANGES", 3)
    state = MemoryDirectory()
    feed = MemoryChangeFeed(state)
    state.tell(["a", "b", "c", "d", "e"])
    assert await feed.since(2) == Changes(5, ["c", "d", "e"])
    assert await feed.since(1) is None


async def test_what_is_older_than_a_day_is_dropped_but_the_newest_of_it(database: Database) -> None:
    old, feed = time.time() - 86_500.0, SqlChangeFeed(database)
    async with database.exclusive() as connection:
        rows = [{"subject": subject, "at": old} for subject in ("a", "b", "c")]
        await connection.execute(insert(changes), rows)
    follower = await feed.version()
    assert await feed.since(0) == Changes(follower, ["a", "b", "c"])
    async with database.exclusive() as connection:
        await tell(connection, ["d"])
    assert await feed.since(follower) == Changes(follower + 1, ["d"])
    assert await feed.since(follower - 1) is None
    assert await feed.since(0) is None
    async with database.transaction() as connection:
        kept = list((await connection.execute(select(changes.c.subject).order_by(changes.c.version))).scalars())
    assert kept == ["c", "d"]


async def test_versions_go_on_after_all_is_old(database: Database) -> None:
    feed = SqlChangeFeed(database)
    async with database.exclusive() as connection:
        await tell(connection, ["a", "b"])
    version = await feed.version()
    async with database.transaction() as connection:
        await connection.execute(update(changes).values(at=1.0))
    for subject in ("c", "d"):
        async with database.exclusive() as connection:
            await tell(connection, [subject])
    assert await feed.since(version) == Changes(version + 2, ["c", "d"])


async def follow(feed: SqlChangeFeed, heard: list[str], enough: int) -> None:
    version = 0
    while len(heard) < enough:
        found = await feed.since(version)
        assert found is not None
        version = found.version
        heard.extend(found.subjects)


async def test_a_follower_misses_nothing_of_writers_at_once(sql_url: str) -> None:
    """Each writer is a process's database; a number drawn early and committed late would be skipped by the follower."""
    databases = [open_database(sql_url, max_connections=2) for _ in range(WRITERS + 1)]
    callers = [in_database(database) for database in databases[1:]]
    wanted = [key(n) for n in range(WRITERS * EACH)]
    for n in range(WRITERS * EACH):
        await callers[0].keys.add(make_key(n))

    async def write(number: int) -> None:
        for n in range(number, WRITERS * EACH, WRITERS):
            await callers[number].keys.revoke(f"key-{n}", at=2_000.0)

    heard: list[str] = []
    async with asyncio.timeout(30):
        await asyncio.gather(
            follow(SqlChangeFeed(databases[0]), heard, len(wanted)), *(write(number) for number in range(WRITERS))
        )
    assert sorted(heard) == sorted(wanted)
    for database in databases:
        await database.close()


async def test_a_change_is_seen_only_once_all_before_it_are(postgres_url: str) -> None:
    """The first writer has its number and has not committed: a second one waits for it."""
    database = open_database(postgres_url)
    feed, second = SqlChangeFeed(database), in_database(database)
    await second.keys.add(make_key(2))
    async with database.exclusive() as connection:
        await tell(connection, ["first"])
        waiting = asyncio.create_task(second.keys.revoke("key-2", at=1.0))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        assert await feed.since(0) == Changes(0, [])
    await waiting
    found = await feed.since(0)
    assert found is not None
    assert found.subjects == ["first", key(2)]
    await database.close()
