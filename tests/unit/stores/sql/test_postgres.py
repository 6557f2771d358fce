"""PostgreSQL's own: the URL, the connections, what it fails with and how that is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text

from callers import in_database, make_key
from phalanx.errors import InvalidRequest, Unavailable
from phalanx.settings import SettingsError
from phalanx.stores.sql.database import Database, check, migrate, open_database
from phalanx.stores.sql.failures import REASONS
from phalanx.stores.sql.postgres import dsn_of, is_postgres
from servers import PostgresServer

pytestmark = pytest.mark.anyio

SECRET = "hunter2"


@pytest.fixture(scope="module")
def url(postgres: PostgresServer) -> str:
    url = postgres.create_database()
    migrate(url)
    return url


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    opened = open_database(url, max_connections=2, patience_s=0.2, timeout_s=1.0)
    yield opened
    await opened.close()


async def fail(database: Database, statement: str) -> str:
    """Return what is said when a statement fails."""
    with pytest.raises(Unavailable) as refused:
        async with database.transaction() as connection:
            await connection.execute(text(statement))
    return refused.value.detail


def server_connections(postgres: PostgresServer, url: str) -> int:
    name = url.rpartition("/")[2]
    return int(postgres.execute(f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'"))


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_a_url_is_read_as_the_driver_does(scheme: str) -> None:
    rest = (
        "ann:p%40ss@one:5432,[::1]:5433/phalanx?sslmode=require&application_name=phalanx&target_session_attrs=primary"
    )
    assert is_postgres(f"{scheme}://{rest}")
    assert dsn_of(f"{scheme}://{rest}") == f"postgresql://{rest}"
    assert dsn_of(f"{scheme}:///phalanx?host=/run/postgresql") == "postgresql:///phalanx?host=/run/postgresql"


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        (f"ann:{SECRET}@db.internal/phalanx?sslmod=require", "it has sslmod, not understood"),
        (f"ann:{SECRET}@db.internal/phalanx?channel_binding=require", "channel_binding"),
        (f"ann:{SECRET}@db.internal/phalanx?sslmode=yes", "none of disable, allow"),
        (f"ann:{SECRET}@db.internal/phalanx?sslmode=verify-full&sslrootcert=/no/such/file", "sslrootcert is not there"),
        (f"ann:x{SECRET}/y@db.internal/phalanx", "special in the password"),
        (f"ann:12/{SECRET}@db.internal/phalanx", "special in the password"),
        (f"ann:{SECRET}#y@db.internal/phalanx", "special in the password"),
        (f"ann:12?{SECRET}=y@db.internal/phalanx", "special in the password"),
        (f"ann:12@{SECRET}@db.internal/phalanx", "special in the password"),
        (f"ann:{SECRET}@db.internal:port/phalanx", "special in the password"),
        (f"ann:{SECRET}@[db.internal/phalanx", "special in the password"),
        (f"ann:{SECRET}@db.internal/phalanx?sslmode", "special in the password"),
    ],
)
def test_a_url_that_would_not_be_heeded_is_refused_without_being_shown(rest: str, said: str) -> None:
    for use in (open_database, migrate, check):
        with pytest.raises(SettingsError, match=said) as refused:
            use(f"postgresql://{rest}")
        assert SECRET not in str(refused.value)
        assert "internal" not in str(refused.value)


async def test_tls_that_the_server_has_not_is_said(url: str, tmp_path: Path) -> None:
    database = open_database(f"{url}?sslmode=require")
    with pytest.raises(Unavailable) as refused:
        await database.ping()
    assert "127.0.0.1" not in refused.value.detail
    await database.close()
    (tmp_path / "root.crt").write_text("no certificate")
    database = open_database(f"{url}?sslmode=verify-full&sslrootcert={tmp_path / 'root.crt'}")
    with pytest.raises(Unavailable, match="TLS failed") as refused:
        await database.ping()
    assert str(tmp_path) not in refused.value.detail
    await database.close()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("/test_", "/nothing_"), "does not exist; create it first"),
        (("postgres@", f"nobody:{SECRET}@"), "does not accept our credentials"),
        (("127.0.0.1", "host.invalid"), "host's name is not known"),
        (("127.0.0.1", "127.0.0.2"), "Connection refused"),
    ],
)
async def test_where_there_is_no_such_database(url: str, change: tuple[str, str], said: str) -> None:
    wrong = url.replace(*change)
    database = open_database(wrong)
    with pytest.raises(Unavailable, match=said) as refused:
        await database.ping()
    with pytest.raises(Unavailable, match=said):
        await asyncio.to_thread(check, wrong)
    for hidden in ("127.0.0", "host.invalid", SECRET, "nobody", "nothing_"):
        assert hidden not in refused.value.detail
    await database.close()


@pytest.mark.parametrize("sqlstate", [code + "000"[: 5 - len(code)] for code in REASONS if code != "08"])
async def test_what_the_server_fails_with_is_told_without_its_words(database: Database, sqlstate: str) -> None:
    said = await fail(database, f"DO $$ BEGIN RAISE EXCEPTION '{SECRET}' USING ERRCODE = '{sqlstate}'; END $$")
    assert said == f"the database cannot be used: {REASONS.get(sqlstate) or REASONS[sqlstate[:2]]}"


async def test_any_other_failure_is_told_by_its_name(database: Database) -> None:
    assert await fail(database, f"DO $$ BEGIN RAISE EXCEPTION '{SECRET}'; END $$") == (
        "the database cannot be used: RaiseError"
    )
    assert (await fail(database, f"SELECT '{SECRET}'::integer")).endswith(": InvalidTextRepresentationError")


async def test_no_value_is_in_a_traceback(database: Database) -> None:
    with pytest.raises(Unavailable) as refused:
        async with database.transaction() as connection:
            await connection.execute(text("SELECT :secret FROM nowhere"), {"secret": SECRET})
    assert SECRET not in str(refused.value.__cause__)


async def test_a_nul_is_the_callers_mistake(database: Database) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await in_database(database).users.find(f"{SECRET}\x00")
    assert refused.value.__suppress_context__
    assert refused.value.__cause__ is None


async def test_a_role_without_rights_and_a_read_only_database_are_told(postgres: PostgresServer, url: str) -> None:
    postgres.execute("CREATE ROLE reader LOGIN")
    name = url.rpartition("/")[2]
    postgres.execute("GRANT SELECT ON api_keys TO reader", name)
    database = open_database(url.replace("postgres@", "reader@"))
    keys = in_database(database).keys
    assert await keys.list() == []
    with pytest.raises(Unavailable, match="our role may not do that"):
        await keys.add(make_key())
    await database.close()
    database = open_database(f"{url}?options=-c%20default_transaction_read_only%3Don")
    keys = in_database(database).keys
    assert await keys.list() == []
    with pytest.raises(Unavailable, match="it is read-only"):
        await keys.add(make_key())
    await database.close()


async def test_connections_are_kept_up_to_the_least_and_made_up_to_the_most(postgres: PostgresServer, url: str) -> None:
    database = open_database(url, min_connections=2, max_connections=5)
    assert server_connections(postgres, url) == 0

    async def hold(seconds: float) -> None:
        async with database.transaction() as connection:
            await connection.execute(text(f"SELECT pg_sleep({seconds})"))

    holders = [asyncio.create_task(hold(0.4)) for _ in range(12)]
    await asyncio.sleep(0.3)
    assert server_connections(postgres, url) == 5
    await asyncio.gather(*holders)
    assert server_connections(postgres, url) == 2
    await database.close()


async def test_who_waits_too_long_for_a_connection_is_told_so(database: Database) -> None:
    async with database.transaction(), database.transaction():
        started = time.monotonic()
        with pytest.raises(Unavailable, match="all connections are busy"):
            await database.ping()
        assert time.monotonic() - started < 0.5
    await database.ping()


async def test_a_transaction_ends_when_its_time_is_up_on_the_server_too(
    postgres: PostgresServer, database: Database
) -> None:
    started = time.monotonic()
    assert "did not answer in time" in await fail(database, "SELECT pg_sleep(30)")
    assert time.monotonic() - started < 4.0
    for _ in range(50):
        if postgres.execute("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(30)%'") == "0":
            break
        await asyncio.sleep(0.05)
    else:
        pytest.fail("the statement goes on")
    await database.ping()


async def test_turns_are_taken_and_other_transactions_go_on(url: str) -> None:
    database = open_database(url)
    order = []

    async def take_turn() -> None:
        async with database.exclusive():
            order.append("second")

    async with database.exclusive():
        second = asyncio.create_task(take_turn())
        await asyncio.sleep(0.2)
        await database.ping()
        order.append("first")
    await second
    assert order == ["first", "second"]
    await database.close()


async def test_a_turn_that_was_given_up_is_free_again(database: Database) -> None:
    async def hold() -> None:
        async with database.exclusive():
            await asyncio.sleep(60)

    holder = asyncio.create_task(hold())
    await asyncio.sleep(0.1)
    holder.cancel()
    await asyncio.gather(holder, return_exceptions=True)
    async with asyncio.timeout(1), database.exclusive():
        pass


async def test_a_deadlock_is_run_again(postgres: PostgresServer, url: str) -> None:
    """Two who lock two rows in opposite orders: PostgreSQL ends one of them after a second."""
    database = open_database(url)
    keys = in_database(database).keys
    await keys.add(make_key(1))
    await keys.add(make_key(2))
    both = asyncio.Barrier(2)
    runs = []

    async def rename(first: str, second: str) -> None:
        async def work(connection: object) -> None:
            runs.append(first)
            for number, key_id in enumerate((first, second)):
                await connection.execute(text(f"UPDATE api_keys SET name = '{first}' WHERE id = '{key_id}'"))  # type: ignore[attr-defined]
                if not number and len(runs) <= 2:
                    await both.wait()

        await database.run(work)

    await asyncio.gather(rename("key-1", "key-2"), rename("key-2", "key-1"))
    assert len(runs) == 3
    assert len({key.name for key in await keys.list()}) == 1
    await database.close()


async def test_a_failure_that_would_come_again_is_not_run_again(database: Database) -> None:
    runs = []

    async def work(connection: object) -> None:
        runs.append(connection)
        await connection.execute(text("SELECT 1 / 0"))  # type: ignore[attr-defined]

    with pytest.raises(Unavailable):
        await database.run(work)
    assert len(runs) == 1
