"""What is PostgreSQL's own: the URL, how a connection is made, how migrations take turns.

The driver reads the URL itself, so that what psql understands works here: several hosts, a service, `sslmode` and the
files of certificates. What it would hand to the server unread is refused, since a misspelt `sslmode` must not go unseen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

import asyncpg
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from phalanx.settings import SettingsError

T = TypeVar("T")

SCHEMES = ("postgresql://", "postgres://", "postgresql+asyncpg://")
TLS_FILES = ("sslcert", "sslkey", "sslrootcert", "sslcrl")
TLS_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
PARAMETERS = frozenset({
    "host", "port", "dbname", "database", "user", "password", "passfile", "service", "sslmode", *TLS_FILES, "sslpassword",
    "sslnegotiation", "ssl_min_protocol_version", "ssl_max_protocol_version", "target_session_attrs", "krbsrvname",
    "gsslib", "application_name", "options", "search_path",
})  # fmt: skip

CONNECT_TIMEOUT_S = 5.0
LOCK_TIMEOUT_S = 5
# A worker that was stopped in the middle of a transaction, or whose machine is lost, lets go of its locks.
IDLE_TIMEOUT_S = 15
MIGRATION_TIMEOUT_S = 600
# Numbers that nothing else in the database uses as an advisory lock.
MIGRATIONS_LOCK = int.from_bytes(b"phalmigr", "big")
TURNS_LOCK = int.from_bytes(b"phalturn", "big")
TAKE_TURN = f"SELECT pg_advisory_xact_lock({TURNS_LOCK})"


def is_postgres(url: str) -> bool:
    """Whether a `DATABASE_URL` is PostgreSQL's."""
    return url.startswith(SCHEMES)


def open_engine(url: str, *, kept: int, most: int, statement_timeout_s: float) -> AsyncEngine:
    """Return an engine that keeps up to `kept` connections and has up to `most`; raises as `dsn_of`.

    Each connection is asked whether it lives before it is used: those to a server that was started anew are replaced.
    """
    connect = partial(_connect, dsn_of(url), lock_timeout_s=LOCK_TIMEOUT_S, statement_timeout_s=statement_timeout_s)
    kept = max(1, min(kept, most))
    return _engine(connect, pool_size=kept, max_overflow=most - kept, pool_pre_ping=True, pool_use_lifo=True)


def run_alone(url: str, work: Callable[[Connection], T]) -> T:
    """Run work in one transaction, one process at a time. Not from within an event loop: it runs one of its own."""
    limits = {"lock_timeout_s": MIGRATION_TIMEOUT_S, "statement_timeout_s": MIGRATION_TIMEOUT_S}
    engine = _engine(partial(_connect, dsn_of(url), **limits), poolclass=NullPool)

    async def run() -> T:
        async with engine.begin() as connection:
            await connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATIONS_LOCK})"))
            return await connection.run_sync(work)

    return asyncio.run(run())


def _engine(connect: Callable[[], Awaitable[Any]], **pool: Any) -> AsyncEngine:
    # Parameters are digests, hashes and addresses, which an exception's text would carry into the log.
    return create_async_engine("postgresql+asyncpg://", async_creator=connect, hide_parameters=True, **pool)


def dsn_of(url: str) -> str:
    """Return the URL as the driver reads it. Raises `SettingsError`, which shows no host and no password."""
    dsn = "postgresql://" + url.partition("://")[2]
    try:
        parts = urlsplit(dsn)
        query = dict(parse_qsl(parts.query, strict_parsing=True, keep_blank_values=True)) if parts.query else {}
        is_whole = not parts.fragment and "@" not in parts.path + parts.query and parts.netloc.count("@") <= 1
        understood = is_whole and all(map(_is_host, parts.netloc.rpartition("@")[2].split(",")))
    except ValueError:
        understood = False
    if not understood:
        # Not the parser's words: a password with a slash in it would be cut there, and shown as a port.
        raise _refused("it cannot be read; is what is special in the password written as %2F, %40, …?")
    unknown = sorted(query.keys() - PARAMETERS)
    if unknown:
        raise _refused(f"it has {', '.join(unknown)}, not understood; there are {', '.join(sorted(PARAMETERS))}")
    if query.get("sslmode", "prefer") not in TLS_MODES:
        raise _refused(f"sslmode is none of {', '.join(TLS_MODES)}")
    missing = [name for name in TLS_FILES if name in query and not Path(query[name]).is_file()]
    if missing:
        raise _refused(f"the file named as {', '.join(missing)} is not there")
    return dsn


def _refused(problem: str) -> SettingsError:
    return SettingsError([f"DATABASE_URL: {problem}."])


def _is_host(host: str) -> bool:
    port = host.rpartition("]")[2].partition(":")[2]
    return not port or port.isdecimal()


async def _connect(dsn: str, *, lock_timeout_s: float, statement_timeout_s: float) -> asyncpg.Connection:
    connection = await asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT_S, command_timeout=statement_timeout_s)
    try:
        # By statements, since poolers of connections refuse these as parameters of the connection's start.
        await connection.execute(
            f"SET lock_timeout = '{lock_timeout_s}s'; SET idle_in_transaction_session_timeout = '{IDLE_TIMEOUT_S}s'"
        )
    except BaseException:
        connection.terminate()
        raise
    return connection
