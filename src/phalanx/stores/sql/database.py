"""The database: its connections and its schema."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import uniform
from typing import TypeVar

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Dialect, Table, literal, select
from sqlalchemy.dialects.postgresql import Insert as PostgresInsert
from sqlalchemy.dialects.sqlite import Insert as SqliteInsert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from phalanx.errors import InvalidRequest, Unavailable
from phalanx.stores.sql import postgres, sqlite
from phalanx.stores.sql.failures import failures_told, is_serialization_failure
from phalanx.stores.sql.tables import api_keys

T = TypeVar("T")

MIN_CONNECTIONS = 5
MAX_CONNECTIONS = 20
PATIENCE_S = 5.0
TRANSACTION_TIMEOUT_S = 30.0
ATTEMPTS = 4
BASE = "base"


class Database:
    """Connections to one database, for the adapters of the ports. `close` it when they are done.

    Who finds all `connections` in use waits for up to `patience_s` seconds. The engine's pool must have room for as
    many: waiting there would go on for long after a connection could not be made. A transaction is given up after
    `timeout_s` seconds, from its connection to its commit, however silent the server is; None leaves it its time.
    """

    def __init__(
        self, engine: AsyncEngine, *, connections: int, patience_s: float, timeout_s: float | None = None
    ) -> None:
        self._engine = engine
        self._free = asyncio.Semaphore(connections)
        self._patience_s = patience_s
        self._timeout_s = timeout_s
        self._open = True

    @property
    def dialect(self) -> Dialect:
        """The dialect that statements are rendered for."""
        return self._engine.dialect

    def insert(self, table: Table) -> SqliteInsert | PostgresInsert:
        """Begin an INSERT that can say what happens on a conflict."""
        return PostgresInsert(table) if self.dialect.name == "postgresql" else SqliteInsert(table)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """Run a transaction: committed at the end, rolled back when the body raises.

        Raises `Unavailable` for whatever the database fails with.
        """
        if not self._open:
            raise Unavailable("the database is closed: the worker is stopping")
        try:
            async with asyncio.timeout(self._patience_s):
                await self._free.acquire()
        except TimeoutError:
            raise Unavailable("the database cannot be used: all connections are busy") from None
        try:
            with failures_told():
                async with asyncio.timeout(self._timeout_s), self._engine.begin() as connection:
                    yield connection
        finally:
            self._free.release()

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[AsyncConnection]:
        """Run a transaction that takes turns with all others begun like this, in every process.

        What it reads stays true of them until it ends, they commit in the order in which they wrote, and no two of them
        wait for each other's rows.
        """
        begin = postgres.TAKE_TURN if self.dialect.name == "postgresql" else sqlite.BEGIN_IMMEDIATE
        async with self.transaction() as connection:
            await connection.exec_driver_sql(begin)
            yield connection

    async def run(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run work as a transaction, and anew, four times in all, when it was given up for another one's sake.

        For work that locks many rows beside others that do; PostgreSQL ends one of two that wait for each other.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                async with self.transaction() as connection:
                    return await work(connection)
            except Unavailable as error:
                if attempt == ATTEMPTS or not is_serialization_failure(error):
                    raise
            await asyncio.sleep(uniform(0.005, 0.025) * 2**attempt)  # noqa: S311 -- only spreads them out
        raise AssertionError("the last attempt returns or raises")

    async def ping(self) -> None:
        """Return when a table can be read; raise `Unavailable` when not."""
        async with self.transaction() as connection:
            await connection.execute(select(literal(1)).select_from(api_keys).limit(1))

    async def close(self) -> None:
        """Close all connections. Whatever uses the database afterwards gets `Unavailable`."""
        self._open = False
        await self._engine.dispose()


def open_database(
    url: str,
    *,
    min_connections: int = MIN_CONNECTIONS,
    max_connections: int = MAX_CONNECTIONS,
    patience_s: float = PATIENCE_S,
    timeout_s: float = TRANSACTION_TIMEOUT_S,
    busy_timeout_s: float = sqlite.BUSY_TIMEOUT_S,
) -> Database:
    """Return the database of a URL. It connects when first used, so a database that is down fails there.

    `postgresql://…` (`postgres://`, `postgresql+asyncpg://`) has up to `max_connections`, of which `min_connections` stay
    open; `patience_s` and `timeout_s` are as `Database` has them. `sqlite:///path` (`sqlite+aiosqlite:///path`), a fourth
    slash making the path absolute, is a file, in which a writer waits for another one for `busy_timeout_s` seconds.
    Raises `SettingsError` for other URLs, and for parameters that would not be heeded.
    """
    if postgres.is_postgres(url):
        engine = postgres.open_engine(url, kept=min_connections, most=max_connections, statement_timeout_s=timeout_s)
        return Database(engine, connections=max_connections, patience_s=patience_s, timeout_s=timeout_s)
    engine = sqlite.open_engine(sqlite.sqlite_path(url), busy_timeout_s)
    return Database(engine, connections=sqlite.POOL_SIZE, patience_s=busy_timeout_s)


def migrate(url: str) -> None:
    """Bring the database to this version's schema, making the file where SQLite has none.

    All in one transaction that excludes other migrations: of several processes that start at once one migrates, and a
    migration that fails or is killed leaves nothing behind. Raises `Unavailable` when the database cannot be used or
    has the schema of a newer version. Not to be called from within an event loop.
    """

    def upgrade(connection: Connection) -> None:
        _refuse_unknown_schema(connection)
        command.upgrade(_config(connection), "head")

    with failures_told():
        if not postgres.is_postgres(url):
            sqlite.create_file(sqlite.sqlite_path(url))
        _run_alone(url, upgrade)


def check(url: str) -> bool:
    """Whether there is a database with just this version's schema. Raises `Unavailable` as `migrate` does."""
    if not postgres.is_postgres(url) and not sqlite.sqlite_path(url).exists():
        return False
    with failures_told():
        return _run_alone(url, _revision) == _scripts().get_current_head()


def downgrade(url: str, revision: str) -> None:
    """Take the schema back to a revision, or to `base`, which is an empty database.

    Raises `InvalidRequest` for a revision that there is not, and `Unavailable` as `migrate` does.
    """
    known = [script.revision for script in _scripts().walk_revisions()]
    if revision != BASE and revision not in known:
        raise InvalidRequest(f"there is no revision {revision!r}; there are {', '.join([BASE, *reversed(known)])}")

    def go_back(connection: Connection) -> None:
        _refuse_unknown_schema(connection)
        command.downgrade(_config(connection), revision)

    with failures_told():
        _run_alone(url, go_back)


def _run_alone(url: str, work: Callable[[Connection], T]) -> T:
    """Run work in one transaction that excludes others of this kind."""
    if postgres.is_postgres(url):
        return postgres.run_alone(url, work)
    return sqlite.run_alone(sqlite.sqlite_path(url), work)


def _config(connection: Connection | None = None) -> Config:
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _refuse_unknown_schema(connection: Connection) -> None:
    found, scripts = _revision(connection), _scripts()
    if found is not None and found not in {script.revision for script in scripts.walk_revisions()}:
        raise Unavailable(
            f"the database has schema {found!r}, which a newer version made; this one knows up to "
            f"{scripts.get_current_head()!r}. Run that version, or restore a backup from before it"
        )
