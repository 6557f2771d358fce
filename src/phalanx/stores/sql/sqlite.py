"""What is SQLite's own: the path in a URL, the file, the settings of a connection.

`synchronous=FULL` beside the write-ahead log: a commit is on the disk when it returns. NORMAL would save an fsync a
commit, but the latest commits could be undone when the power fails: a revoked key would come back to life, and usage
whose journal was deleted after its commit would be lost. Writes are few, keys and one batch of usage a
second, and no computed call waits for them, so there would be nothing to win.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from phalanx.settings import SettingsError

T = TypeVar("T")

SCHEMES = ("sqlite:///", "sqlite+aiosqlite:///")
# SQLite has one writer at a time, and each connection is a thread of its own: a few readers beside it will do.
POOL_SIZE = 4
BUSY_TIMEOUT_S = 5.0
BEGIN_IMMEDIATE = "BEGIN IMMEDIATE"


def open_engine(path: Path, busy_timeout_s: float) -> AsyncEngine:
    """Return an engine of four connections to the file."""
    target = URL.create("sqlite+aiosqlite", database=str(path))
    engine = create_async_engine(target, pool_size=POOL_SIZE, max_overflow=0, hide_parameters=True)
    tune(engine.sync_engine, path, busy_timeout_s)
    return engine


def run_alone(path: Path, work: Callable[[Connection], T]) -> T:
    """Run work in one transaction that excludes other writers from its start."""
    engine = create_engine(URL.create("sqlite+pysqlite", database=str(path)), poolclass=NullPool)
    tune(engine, path, BUSY_TIMEOUT_S)
    begin_immediate(engine)
    _turn_to_write_ahead_log(engine)
    with engine.begin() as connection:
        return work(connection)


def sqlite_path(url: str) -> Path:
    """Return the file that a `DATABASE_URL` names. Raises `SettingsError`, which shows nothing of a password."""
    scheme = next((scheme for scheme in SCHEMES if url.startswith(scheme)), None)
    if scheme is None:
        found = f"begins with {url.split(':')[0]!r}" if "://" in url else "is no URL"
        raise SettingsError([f"DATABASE_URL: it {found}; postgresql://… and sqlite:///path are understood."])
    path = url.removeprefix(scheme)
    if path in ("", ":memory:"):
        raise SettingsError(
            ["DATABASE_URL: it names no file, and nothing would outlive the worker; use sqlite:///path."]
        )
    return Path(path)


def create_file(path: Path) -> None:
    """Make the file (mode 0600) and its folders (0700) unless they are there; SQLite follows suit."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # A file that is there is not opened: to close it would end all locks that this process has on it (fcntl(2)).
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def tune(engine: Engine, path: Path, busy_timeout_s: float) -> None:
    """Set up each new connection of an engine; see the module."""

    @event.listens_for(engine, "do_connect")
    def look(*_arguments: object) -> None:
        # SQLite would make a missing file, and serve from an empty database what should be an alarm. Failing here
        # also spares the driver's thread, which on a failure to open outlives the event loop and complains.
        if not (path.is_file() and os.access(path, os.R_OK | os.W_OK)):
            raise sqlite3.OperationalError("unable to open database file")

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {round(busy_timeout_s * 1000)}")
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()


def _turn_to_write_ahead_log(engine: Engine) -> None:
    """Open and close a connection, again while others do the same to a new file.

    Of two that turn a file to the write-ahead log at once, SQLite refuses one without waiting as for other locks.
    """
    latest = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            engine.connect().close()
        except OperationalError as error:
            if getattr(error.orig, "sqlite_errorcode", None) != sqlite3.SQLITE_BUSY or time.monotonic() > latest:
                raise
            time.sleep(0.01)
        else:
            return


def begin_immediate(engine: Engine) -> None:
    """Make every transaction of an engine the only writer from its start, and table changes part of it.

    Python's driver would begin at the first INSERT only and run CREATE and DROP outside of any transaction.
    """

    @event.listens_for(engine, "connect")
    def hand_over(connection: Any, _record: object) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql(BEGIN_IMMEDIATE)
