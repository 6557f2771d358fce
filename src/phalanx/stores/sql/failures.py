"""What a database fails with, in words that name no host, path, password or stored value."""

from __future__ import annotations

import errno
import os
import socket
import sqlite3
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from asyncpg import ClientConfigurationError, InterfaceError, PostgresError
from sqlalchemy.exc import SQLAlchemyError

from phalanx.errors import InvalidRequest, PhalanxError, Unavailable

# PostgreSQL's SQLSTATEs, the first two characters of which are a class.
REASONS = {
    "08": "the connection was lost",
    "25006": "it is read-only",
    "25P03": "a transaction was idle for too long",
    "28": "it does not accept our credentials",
    "3D000": "it does not exist; create it first",
    "40001": "another transaction was in the way",
    "40P01": "another transaction was in the way",
    "42501": "our role may not do that",
    "42703": "it lacks a column; run: phalanx db migrate",
    "42P01": "it lacks a table; run: phalanx db migrate",
    "53": "it has no room, memory or connection left",
    "55P03": "a lock was held by others for too long",
    "57": "it is starting, stopping, or gave up a statement",
    "58": "its server cannot use its files",
}
UNSTORABLE = frozenset({"22021", "22P05"})
NAMES_ONLY = "42"
"""Mistakes in a statement, which is ours: the server's own words tell of tables and columns, never of values."""
SERIALIZATION_FAILURES = frozenset({"40001", "40P01"})


@contextmanager
def failures_told() -> Iterator[None]:
    """Turn what a database, its driver or the network fails with into `Unavailable`, with a reason to show.

    A text that no database keeps, as one with a lone surrogate, becomes `InvalidRequest`.
    """
    try:
        yield
    except (SQLAlchemyError, PostgresError, InterfaceError, OSError, UnicodeEncodeError) as error:
        if _is_unstorable(error):
            # Without its cause, whose words show the text.
            raise InvalidRequest("a text holds a NUL or half of a surrogate pair, which cannot be stored") from None
        raise Unavailable(f"the database cannot be used: {_reason(error)}") from error


def is_serialization_failure(error: PhalanxError) -> bool:
    """Whether PostgreSQL gave a transaction up for another one's sake, so that the same again may well succeed."""
    return _sqlstate(error.__cause__) in SERIALIZATION_FAILURES


def _is_unstorable(error: Exception) -> bool:
    causes = (error, _innermost(error).__cause__)
    return _sqlstate(error) in UNSTORABLE or any(isinstance(cause, UnicodeEncodeError) for cause in causes)


def _reason(error: Exception) -> str:
    sqlstate = _sqlstate(error)
    known = REASONS.get(sqlstate) or REASONS.get(sqlstate[:2])
    if known:
        return known
    cause = getattr(error, "orig", None) or error
    if sqlstate.startswith(NAMES_ONLY):
        return str(_innermost(error).args[0])
    if isinstance(cause, sqlite3.Error):
        return str(cause)
    if isinstance(cause, TimeoutError):
        return "it did not answer in time"
    if isinstance(cause, ssl.SSLError):
        return f"TLS failed: {cause.reason or type(cause).__name__}"
    if isinstance(cause, socket.gaierror):
        return "its host's name is not known; see DATABASE_URL"
    if isinstance(cause, OSError):
        # Not the exception's own words: asyncio's name the address.
        words = os.strerror(cause.errno) if cause.errno and cause.errno in errno.errorcode else "it cannot be reached"
        return f"{words}; see DATABASE_URL and DATA_DIR"
    if isinstance(_innermost(error), ClientConfigurationError):
        return "DATABASE_URL does not say enough; sslmode=verify-ca and verify-full need sslrootcert"
    return type(_innermost(error)).__name__


def _sqlstate(error: BaseException | None) -> str:
    cause = getattr(error, "orig", None) or error
    return getattr(cause, "sqlstate", None) or ""


def _innermost(error: BaseException) -> BaseException:
    """Return the driver's own exception below SQLAlchemy's wrappers."""
    cause = getattr(error, "orig", None) or error
    return cause.__cause__ or cause
