"""What every conformance suite needs: a clock set by hand, migrated databases, stores."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from callers import Callers, in_database, in_memory
from clocks import HandClock
from phalanx.stores.sql.database import Database, migrate, open_database
from servers import PostgresServer


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """A database of its own, with this version's schema."""
    url = f"sqlite:///{tmp_path / 'phalanx.db'}"
    migrate(url)
    return url


@pytest.fixture(scope="session")
def postgres_template(postgres: PostgresServer) -> str:
    """The name of a database with this version's schema, which new ones are copied from."""
    url = postgres.create_database()
    # A test's event loop may be running already, and migrating runs one of its own.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(migrate, url).result()
    return url.rpartition("/")[2]


@pytest.fixture
def postgres_url(postgres: PostgresServer, postgres_template: str) -> str:
    """A database of its own on PostgreSQL, with this version's schema."""
    return postgres.create_database(template=postgres_template)


@pytest.fixture(params=["sqlite", "postgres"])
def sql_url(request: pytest.FixtureRequest) -> str:
    """A database of its own, with this version's schema, on each of what is supported."""
    return str(request.getfixturevalue("database_url" if request.param == "sqlite" else "postgres_url"))


@pytest.fixture
async def database(sql_url: str) -> AsyncIterator[Database]:
    """An open database of its own, on each of what is supported."""
    opened = open_database(sql_url)
    yield opened
    await opened.close()


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def callers(request: pytest.FixtureRequest) -> AsyncIterator[Callers]:
    """The stores of callers, empty, on every adapter."""
    if request.param == "memory":
        yield in_memory()
        return
    opened = open_database(request.getfixturevalue("database_url" if request.param == "sqlite" else "postgres_url"))
    yield in_database(opened)
    await opened.close()
