"""What the stores of callers do while their database is broken, gone, silent or held by another one."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from callers import Callers, in_database, make_entry, make_key, make_organisation, make_session, make_user
from phalanx.errors import Unavailable
from phalanx.stores.sql import postgres as postgres_module
from phalanx.stores.sql.database import Database, open_database
from phalanx.stores.sql.sqlite import sqlite_path
from servers import PostgresServer

pytestmark = pytest.mark.anyio

WORKERS = 12


def reads(callers: Callers) -> list[Awaitable[object]]:
    return [
        callers.keys.find("d"), callers.keys.get("key-1"), callers.keys.list(), callers.keys.ping(),
        callers.users.get("user-1"), callers.users.find("e"), callers.users.list(),
        callers.organisations.get("org-1"), callers.organisations.list(), callers.organisations.list_of("u"),
        callers.organisations.members("org-1"), callers.sessions.get("s"), callers.sessions.standing("s"),
        callers.sessions.list("user-1"), callers.changes.version(), callers.changes.since(0),
        callers.audit.list(organisation=None, action=None, before=None, limit=1),
    ]  # fmt: skip


def writes(callers: Callers) -> list[Awaitable[object]]:
    return [
        callers.keys.add(make_key(7)), callers.keys.revoke("key-1", at=1.0), callers.keys.touch({"key-1": 1.0}),
        callers.keys.rotate("key-1", make_key(8), expires_at=1.0),
        callers.users.add(make_user(7), make_organisation(7), "admin"), callers.users.update("user-1", staff=True),
        callers.users.rehash("user-1", "a", "b"), callers.organisations.add(make_organisation(8)),
        callers.organisations.update("org-1", tier="pro"), callers.organisations.remove_member("o", "u", at=1.0),
        callers.organisations.put_member("org-1", "user-1", "admin", at=1.0), callers.sessions.add(make_session(7)),
        callers.sessions.advance("s", counter=0, at=1.0), callers.sessions.end("s", at=1.0),
        callers.sessions.end_all("user-1", at=1.0), callers.sessions.forget(before=1.0),
        callers.audit.append(make_entry(7)),
    ]  # fmt: skip


async def expect_unavailable(calls: list[Awaitable[object]], *, within_s: float = 5.0) -> None:
    started = time.monotonic()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert time.monotonic() - started < within_s
    for outcome in outcomes:
        assert isinstance(outcome, Unavailable), outcome
        for hidden in ("/", "127.0.0.1", "INSERT", "example.org"):
            assert hidden not in outcome.detail


async def set_up(database: Database) -> Callers:
    callers = in_database(database)
    await callers.sign_up(1)
    await callers.keys.add(make_key(1))
    return callers


@contextmanager
def down(server: PostgresServer, how: signal.Signals) -> Iterator[None]:
    server.stop(how)
    try:
        yield
    finally:
        server.start()


@contextmanager
def silent(server: PostgresServer) -> Iterator[None]:
    """Let the server take connections and say nothing."""
    parent = int(Path(server.folder, "data", "postmaster.pid").read_text().split()[0])
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    processes = [parent, *map(int, children)]
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            # One that was ending of itself when it was stopped ends now.
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)


async def test_a_closed_database_is_unavailable(database: Database) -> None:
    callers = await set_up(database)
    await database.close()
    await expect_unavailable([*reads(callers), *writes(callers)])


@pytest.mark.parametrize("breakage", ["directory", "garbage", "no tables", "gone"])
async def test_a_broken_file_is_unavailable(database_url: str, breakage: str) -> None:
    path = sqlite_path(database_url)
    path.unlink()
    if breakage == "directory":
        path.mkdir()
    elif breakage == "garbage":
        path.write_bytes(b"this is no database, but it is as long as a header of one would be" * 100)
    elif breakage == "no tables":
        sqlite3.connect(path).close()
        path.touch()
    database = open_database(database_url)
    callers = in_database(database)
    await expect_unavailable([*reads(callers), *writes(callers)])
    await database.close()


async def test_a_file_that_another_one_writes_is_unavailable_for_writing_only(database_url: str) -> None:
    database = open_database(database_url, busy_timeout_s=0.05)
    callers = await set_up(database)
    other = sqlite3.connect(sqlite_path(database_url), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="locked"):
        await callers.keys.add(make_key(2))
    with pytest.raises(Unavailable, match="locked"):
        await callers.keys.revoke("key-1", at=1.0)
    assert await callers.keys.list() == [make_key(1)]
    other.execute("ROLLBACK")
    other.close()
    await callers.keys.add(make_key(2))
    assert len(await callers.keys.list()) == 2
    await database.close()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
async def test_while_the_server_is_down_all_is_unavailable_and_then_at_once_well(
    postgres: PostgresServer, postgres_url: str, how: signal.Signals
) -> None:
    database = open_database(postgres_url)
    callers = await set_up(database)
    await asyncio.gather(*reads(callers))
    with down(postgres, how):
        for _ in range(2):
            await expect_unavailable([*reads(callers), *writes(callers)])
    assert await callers.keys.list() == [make_key(1)]
    await asyncio.gather(*reads(callers), *(callers.keys.add(make_key(n)) for n in range(20, 40)))
    await database.close()


async def test_connections_that_the_server_ended_are_replaced_unseen(
    postgres: PostgresServer, postgres_url: str
) -> None:
    database = open_database(postgres_url)
    callers = await set_up(database)
    for _ in range(3):
        await asyncio.gather(*reads(callers))
        name = postgres_url.rpartition("/")[2]
        postgres.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    await asyncio.gather(*reads(callers))
    await database.close()


async def test_a_server_that_says_nothing_is_given_up_in_time(postgres: PostgresServer, postgres_url: str) -> None:
    database = open_database(postgres_url, max_connections=40, timeout_s=1.0)
    callers = await set_up(database)
    await asyncio.gather(*reads(callers))
    with silent(postgres):
        await expect_unavailable([*reads(callers), *writes(callers)], within_s=6.0)
    assert await callers.keys.find(f"{1:064x}") is not None
    await asyncio.gather(*reads(callers))
    await database.close()


async def test_what_was_answered_outlives_a_kill_under_load(postgres: PostgresServer, postgres_url: str) -> None:
    database = open_database(postgres_url, timeout_s=5.0)
    callers = in_database(database)
    answered: list[int] = []
    stopping = asyncio.Event()

    async def use(worker: int) -> None:
        for n in range(worker, 100_000, WORKERS):
            if stopping.is_set():
                return
            started = time.monotonic()
            try:
                await callers.keys.add(make_key(n))
                await callers.keys.revoke(f"key-{n}", at=2_000.0)
                answered.append(n)
            except Unavailable:
                await asyncio.sleep(0.02)
            assert time.monotonic() - started < 8.0

    async with asyncio.TaskGroup() as tasks:
        for worker in range(WORKERS):
            tasks.create_task(use(worker))
        for _ in range(2):
            await asyncio.sleep(0.4)
            postgres.kill()
            await asyncio.sleep(0.1)
            await asyncio.to_thread(postgres.start)
        before = len(answered)
        await asyncio.sleep(0.4)
        assert len(answered) > before
        stopping.set()
    assert {f"key-{n}" for n in answered} <= {key.id for key in await callers.keys.list() if key.revoked_at}
    told = await callers.news(0)
    assert len(told) == len(set(told))
    assert set(told) == {f"key:{key.digest}" for key in await callers.keys.list() if key.revoked_at}
    await database.close()


async def test_a_worker_that_stopped_in_its_turn_holds_others_up_for_a_while_only(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_module, "IDLE_TIMEOUT_S", 1)
    stopped, other = open_database(postgres_url), open_database(postgres_url)
    callers = await set_up(other)

    async def stop_in_turn() -> None:
        async with stopped.exclusive():
            started = time.monotonic()
            await callers.keys.revoke("key-1", at=1.0)
            assert 0.5 < time.monotonic() - started < 4.0

    with pytest.raises(Unavailable):
        await stop_in_turn()
    await stopped.ping()
    await stopped.close()
    await other.close()
