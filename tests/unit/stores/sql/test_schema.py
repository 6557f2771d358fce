"""Migrations, on each kind of database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, inspect, text

from callers import in_database, make_key, make_organisation
from phalanx.errors import InvalidRequest, Unavailable
from phalanx.stores.sql import postgres, sqlite
from phalanx.stores.sql.database import check, downgrade, migrate, open_database
from phalanx.stores.sql.tables import metadata
from servers import PostgresServer

T = TypeVar("T")

OLD_KEY = (
    "INSERT INTO api_keys (id, digest, hint, email, organisation, name, tier, scopes, created_at) "
    f"VALUES ('key-1', '{1:064x}', 'fe_abcdef', 'ann@example.org', 'ann@example.org', 'number 1', 'pro', "
    "'[\"text\"]', 1001.25)"
)
OLD_EVENT = (
    "INSERT INTO usage_events (id, at, organisation, key_id, operation, unit, units, tokens, cached, model, status, "
    "latency_ms) VALUES ('event', 86400.0, 'o', 'k', 'text.embed', 'tokens', 5, 7, 1, 'm', 'ok', 1.5)"
)


def within(url: str, work: Callable[[Connection], T]) -> T:
    if postgres.is_postgres(url):
        return postgres.run_alone(url, work)
    path = sqlite.sqlite_path(url)
    sqlite.create_file(path)
    return sqlite.run_alone(path, work)


def execute(url: str, *statements: str) -> None:
    def run(connection: Connection) -> None:
        for statement in statements:
            connection.execute(text(statement))

    within(url, run)


def tables(url: str) -> set[str]:
    return set(within(url, lambda connection: inspect(connection).get_table_names()))


def value(url: str, query: str) -> object:
    return within(url, lambda connection: connection.execute(text(query)).scalar())


def test_migrations_build_exactly_the_tables_of_this_version(new_url: str) -> None:
    def differences(connection: Connection) -> object:
        options = {"compare_type": True, "include_object": is_ours}
        return compare_metadata(MigrationContext.configure(connection, opts=options), metadata)

    def is_ours(_item: object, name: str | None, *_rest: object) -> bool:
        return name != "usage_events_default"

    migrate(new_url)
    assert within(new_url, differences) == []


def test_up_down_and_up_again(new_url: str) -> None:
    assert not check(new_url)
    migrate(new_url)
    assert check(new_url)
    all_tables = tables(new_url)
    assert {table.name for table in metadata.sorted_tables} <= all_tables
    downgrade(new_url, "base")
    assert not check(new_url)
    assert tables(new_url) == {"alembic_version"}
    migrate(new_url)
    assert check(new_url)
    assert tables(new_url) == all_tables


def test_migrating_again_keeps_what_is_there(new_url: str) -> None:
    migrate(new_url)
    execute(new_url, OLD_KEY)
    migrate(new_url)
    assert value(new_url, "SELECT count(*) FROM api_keys") == 1


def test_an_older_schema_is_brought_up_with_what_it_holds(new_url: str) -> None:
    migrate(new_url)
    downgrade(new_url, "0001")
    assert not check(new_url)
    execute(new_url, OLD_KEY)
    if not postgres.is_postgres(new_url):
        execute(new_url, OLD_EVENT)
    migrate(new_url)

    async def read() -> None:
        database = open_database(new_url)
        callers = in_database(database)
        name = "ann@example.org"
        made = make_organisation(id=name, name=name, tier="pro", created_at=1_001.25)
        assert await callers.organisations.list() == [made]
        assert await callers.keys.list() == [make_key(1, tier="pro", scopes=("text",))]
        await database.close()

    asyncio.run(read())
    if not postgres.is_postgres(new_url):
        assert value(new_url, "SELECT day || requests || units FROM usage_daily") == "1970-01-0215"


def test_what_is_new_goes_and_keys_stay_on_the_way_back(new_url: str) -> None:
    migrate(new_url)
    execute(new_url, OLD_KEY)
    downgrade(new_url, "0001")
    assert not {"users", "sessions", "organisations", "changes"} & tables(new_url)
    assert value(new_url, "SELECT name FROM api_keys") == "number 1"


def test_workers_that_start_at_once_migrate_once(new_url: str) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(migrate, [new_url] * 8))
    assert check(new_url)


def test_processes_that_start_at_once_migrate_once(postgres: PostgresServer) -> None:
    url = postgres.create_database()
    context = get_context("spawn")
    processes = [context.Process(target=migrate, args=(url,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert check(url)


def test_a_migration_that_fails_leaves_nothing_behind(new_url: str) -> None:
    execute(new_url, "CREATE TABLE sessions (mine TEXT)")
    with pytest.raises(Unavailable, match="already exists"):
        migrate(new_url)
    assert tables(new_url) == {"sessions"}
    assert not check(new_url)


def test_the_schema_of_a_newer_version_is_refused_by_both_names(new_url: str) -> None:
    migrate(new_url)
    all_tables = tables(new_url)
    execute(new_url, "UPDATE alembic_version SET version_num = '9999'")
    assert not check(new_url)
    with pytest.raises(Unavailable, match=r"'9999'.*'0006'"):
        migrate(new_url)
    with pytest.raises(Unavailable, match=r"'9999'.*'0006'"):
        downgrade(new_url, "base")
    assert tables(new_url) == all_tables


def test_an_unknown_revision_is_refused_with_those_there_are(new_url: str) -> None:
    migrate(new_url)
    with pytest.raises(InvalidRequest, match=r"'nope'.*base, 0001, 0002, 0003, 0004, 0005, 0006"):
        downgrade(new_url, "nope")
    assert check(new_url)


def test_a_store_over_no_or_an_older_schema_says_what_to_run(new_url: str) -> None:
    async def use() -> str:
        database = open_database(new_url)
        with pytest.raises(Unavailable) as refused:
            await in_database(database).keys.add(make_key())
        await database.close()
        return refused.value.detail

    execute(new_url, "SELECT 1")
    assert "table" in asyncio.run(use())
    migrate(new_url)
    downgrade(new_url, "0001")
    assert "organisations" in asyncio.run(use()) or "phalanx db migrate" in asyncio.run(use())


def test_a_read_only_database_is_not_migrated_but_can_be_checked(postgres: PostgresServer) -> None:
    url = postgres.create_database()
    postgres.execute(f"ALTER DATABASE {url.rpartition('/')[2]} SET default_transaction_read_only = on")
    assert not check(url)
    with pytest.raises(Unavailable, match="read-only"):
        migrate(url)
    assert tables(url) == set()
