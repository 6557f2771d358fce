"""The change feed in the database."""

from __future__ import annotations

import time
from collections.abc import Iterable

from sqlalchemy import delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from phalanx.ports import Changes
from phalanx.stores.sql.database import Database
from phalanx.stores.sql.tables import changes, sessions

KEPT_S = 86_400.0


class SqlChangeFeed:
    """A `ChangeFeed` over one table, which the other adapters write by `tell`. It goes back for a day."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def version(self) -> int:
        """Return the newest version; 0 when nothing ever changed."""
        async with self._database.transaction() as connection:
            newest = (await connection.execute(select(func.max(changes.c.version)))).scalar_one()
        return newest or 0

    async def since(self, version: int, *, limit: int = 10_000) -> Changes | None:
        """Return what changed after a version; None when that is too much or too old to be told; see the port."""
        # The known version is read along: while its row is there, nothing after it was dropped.
        query = select(changes.c.version, changes.c.subject).where(changes.c.version >= version)
        async with self._database.transaction() as connection:
            rows = (await connection.execute(query.order_by(changes.c.version).limit(limit + 2))).all()
        first = rows[0].version if rows else 0
        is_whole = first == version if version else first <= 1
        news = [row for row in rows if row.version > version]
        if not is_whole or len(news) > limit:
            return None
        return Changes(news[-1].version if news else version, [row.subject for row in news])


async def tell(connection: AsyncConnection, subjects: Iterable[str]) -> None:
    """Append subjects to the feed, and drop those of more than a day ago; in a transaction begun as `exclusive`.

    The newest of the old ones stays, so that who was told of it can tell that nothing is missing since.
    """
    now = time.time()
    rows = [{"subject": subject, "at": now} for subject in subjects]
    if not rows:
        return
    await connection.execute(insert(changes), rows)
    newest_of_old = select(func.max(changes.c.version)).where(changes.c.at < now - KEPT_S).scalar_subquery()
    await connection.execute(delete(changes).where(changes.c.version < newest_of_old))


async def tell_keys(connection: AsyncConnection, digests: Iterable[str]) -> None:
    """Append keys to the feed; as `tell`."""
    await tell(connection, (f"key:{digest}" for digest in digests))


async def tell_sessions(connection: AsyncConnection, session_ids: Iterable[str]) -> None:
    """Append sessions to the feed; as `tell`."""
    await tell(connection, (f"session:{session_id}" for session_id in session_ids))


async def tell_open_sessions(
    connection: AsyncConnection, *, user_id: str | None = None, organisation: str | None = None
) -> None:
    """Append the open sessions of a user, of an organisation, or of one in the other, to the feed; as `tell`."""
    query = select(sessions.c.id).where(sessions.c.ended_at.is_(None))
    if user_id is not None:
        query = query.where(sessions.c.user_id == user_id)
    if organisation is not None:
        query = query.where(sessions.c.organisation == organisation)
    await tell_sessions(connection, (await connection.execute(query)).scalars())
