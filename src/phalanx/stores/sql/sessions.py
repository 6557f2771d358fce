"""Sessions in the database."""

from __future__ import annotations

import msgspec
from sqlalchemy import ColumnElement, and_, case, delete, func, insert, or_, select, update

from phalanx.contract.users import SessionRecord, Standing
from phalanx.stores.sql.changes import tell_sessions
from phalanx.stores.sql.database import Database
from phalanx.stores.sql.tables import members, organisations, sessions, users

_is_open = sessions.c.ended_at.is_(None)
_no_member = case((members.c.user_id.is_(None), sessions.c.created_at))
_standing = (
    select(
        sessions.c.id.label("session_id"), sessions.c.user_id, users.c.email, users.c.staff, sessions.c.organisation,
        func.coalesce(members.c.role, "member").label("role"),
        func.coalesce(organisations.c.tier, "free").label("tier"), sessions.c.expires_at,
        func.coalesce(sessions.c.ended_at, users.c.disabled_at, _no_member).label("ended_at"),
    )
    .join(users, users.c.id == sessions.c.user_id)
    .outerjoin(
        members, and_(members.c.organisation == sessions.c.organisation, members.c.user_id == sessions.c.user_id)
    )
    .outerjoin(organisations, organisations.c.id == sessions.c.organisation)
)  # fmt: skip


class SqlSessionStore:
    """A `SessionStore` over one table. The database is its maker's to close."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, session: SessionRecord) -> None:
        """Store a new session."""
        async with self._database.transaction() as connection:
            await connection.execute(insert(sessions).values(msgspec.structs.asdict(session)))

    async def get(self, session_id: str) -> SessionRecord | None:
        """Return a session, ended ones too, or None."""
        async with self._database.transaction() as connection:
            row = (await connection.execute(select(sessions).where(sessions.c.id == session_id))).one_or_none()
        return None if row is None else _record(row)

    async def standing(self, session_id: str) -> Standing | None:
        """Return what a session is worth now, or None if there is none; see the port."""
        async with self._database.transaction() as connection:
            row = (await connection.execute(_standing.where(sessions.c.id == session_id))).one_or_none()
        return None if row is None else msgspec.convert(row, Standing, from_attributes=True)

    async def advance(self, session_id: str, *, counter: int, at: float) -> SessionRecord | None:
        """Move the counter on from `counter` by one and return the session; None when it stands elsewhere or ended."""
        move = (
            update(sessions)
            .where(sessions.c.id == session_id, sessions.c.counter == counter, _is_open)
            .values(counter=counter + 1, refreshed_at=at)
            .returning(sessions)
        )
        async with self._database.transaction() as connection:
            row = (await connection.execute(move)).one_or_none()
        return None if row is None else _record(row)

    async def list(self, user_id: str) -> list[SessionRecord]:
        """Return the sessions of a user that have not ended, newest first. Expired ones may be among them."""
        query = select(sessions).where(sessions.c.user_id == user_id, _is_open)
        async with self._database.transaction() as connection:
            rows = (await connection.execute(query.order_by(sessions.c.created_at.desc(), sessions.c.id.desc()))).all()
        return [_record(row) for row in rows]

    async def end(self, session_id: str, *, at: float) -> bool:
        """End a session; False if there is none or it had ended."""
        return await self._end(sessions.c.id == session_id, at=at) > 0

    async def end_all(self, user_id: str, *, at: float, keep: str | None = None) -> int:
        """End all sessions of a user but `keep`. Returns how many."""
        return await self._end(and_(sessions.c.user_id == user_id, sessions.c.id != (keep or "")), at=at)

    async def forget(self, *, before: float) -> int:
        """Delete sessions that expired or ended before an instant. Returns how many."""
        gone = delete(sessions).where(or_(sessions.c.expires_at < before, sessions.c.ended_at < before))
        async with self._database.transaction() as connection:
            return (await connection.execute(gone)).rowcount

    async def _end(self, which: ColumnElement[bool], *, at: float) -> int:
        end = update(sessions).where(which, _is_open).values(ended_at=at).returning(sessions.c.id)
        async with self._database.exclusive() as connection:
            ended = list((await connection.execute(end)).scalars())
            await tell_sessions(connection, ended)
        return len(ended)


def _record(row: object) -> SessionRecord:
    return msgspec.convert(row, SessionRecord, from_attributes=True)
