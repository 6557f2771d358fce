"""The database: its connections and its schema."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Dialect, Table, create_engine, literal, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from phalanx.errors import InvalidRequest, Unavailable
from phalanx.stores.sql.sqlite import begin_immediate, create_file, sqlite_path, tune
from phalanx.stores.sql.tables import api_keys

BUSY_TIMEOUT_S = 5.0
# SQLite has one writer at a time, and each connection is a thread of its own: a few readers beside it will do.
POOL_SIZE = 4
BASE = "base"


class Database:
    """Connections to one database, for the adapters of the ports. `close` it when they are done.

    Who finds all `connections` in use waits for up to `patience_s` seconds. The engine's pool must have room for as
    many: waiting there would go on for long after a connection could not be made.
    """

    def __init__(self, engine: AsyncEngine, *, connections: int, patience_s: float) -> None:
        self._engine = engine
        self._free = asyncio.Semaphore(connections)
        self._patience_s = patience_s
        self._open = True

    @property
    def dialect(self) -> Dialect:
        """The dialect that statements are rendered for."""
        return self._engine.dialect

    def insert(self, table: Table) -> sqlite.Insert | postgresql.Insert:
        """Begin an INSERT that can say what happens on a conflict."""
        return postgresql.insert(table) if self.dialect.name == "postgresql" else sqlite.insert(table)

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
            with _failures_as_unavailable():
                async with self._engine.begin() as connection:
                    yield connection
        finally:
            self._free.release()

    async def ping(self) -> None:
        """Return when a table can be read; raise `Unavailable` when not."""
        async with self.transaction() as connection:
            await connection.execute(select(literal(1)).select_from(api_keys).limit(1))

    async def close(self) -> None:
        """Close all connections. Whatever uses the database afterwards gets `Unavailable`."""
        self._open = False
        await self._engine.dispose()


def open_database(url: str, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> Database:
    """Return the database of a URL. It connects when first used, so a database that is down fails there.

    `sqlite:///path` and `sqlite+aiosqlite:///path` are understood, a fourth slash making the path absolute;
    ValueError for others. A writer waits for another one for `busy_timeout_s` seconds before it gives up.
    """
    path = sqlite_path(url)
    target = URL.create("sqlite+aiosqlite", database=str(path))
    engine = create_async_engine(target, pool_size=POOL_SIZE, max_overflow=0)
    tune(engine.sync_engine, path, busy_timeout_s)
    return Database(engine, connections=POOL_SIZE, patience_s=busy_timeout_s)


def migrate(url: str) -> None:
    """Bring the database to this version's schema, making it where there is none.

    All in one transaction that excludes other writers: of several processes that start at once one migrates, and a
    migration that fails or is killed leaves nothing behind. Raises `Unavailable` when the database cannot be used or
    has the schema of a newer version.
    """
    with _failures_as_unavailable():
        path = sqlite_path(url)
        create_file(path)
        with _connect(path) as connection:
            _refuse_unknown_schema(connection)
            command.upgrade(_config(connection), "head")


def check(url: str) -> bool:
    """Whether there is a database with just this version's schema. Raises `Unavailable` as `migrate` does."""
    path = sqlite_path(url)
    if not path.exists():
        return False
    with _failures_as_unavailable(), _connect(path) as connection:
        return _revision(connection) == _scripts().get_current_head()


def downgrade(url: str, revision: str) -> None:
    """Take the schema back to a revision, or to `base`, which is an empty database.

    Raises `InvalidRequest` for a revision that there is not, and `Unavailable` as `migrate` does.
    """
    known = [script.revision for script in _scripts().walk_revisions()]
    if revision != BASE and revision not in known:
        raise InvalidRequest(f"there is no revision {revision!r}; there are {', '.join([BASE, *reversed(known)])}")
    with _failures_as_unavailable(), _connect(sqlite_path(url)) as connection:
        _refuse_unknown_schema(connection)
        command.downgrade(_config(connection), revision)


@contextmanager
def _failures_as_unavailable() -> Iterator[None]:
    """Turn failures of the database or the file system into `Unavailable`, for a reason that names no path."""
    try:
        yield
    except SQLAlchemyError as error:
        cause = getattr(error, "orig", None)
        reason = str(cause) if isinstance(cause, sqlite3.Error) else type(error).__name__
        raise Unavailable(f"the database cannot be used: {reason}") from error
    except OSError as error:
        raise Unavailable(f"the database cannot be used: {error.strerror}; see DATABASE_URL and DATA_DIR") from error


@contextmanager
def _connect(path: Path) -> Iterator[Connection]:
    engine = create_engine(URL.create("sqlite+pysqlite", database=str(path)), poolclass=NullPool)
    tune(engine, path, BUSY_TIMEOUT_S)
    begin_immediate(engine)
    with engine.begin() as connection:
        yield connection


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
