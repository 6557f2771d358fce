"""Users in the database."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType
from sqlalchemy import ColumnElement, insert, select, update

from phalanx.contract.users import OrganisationRecord, Role, UserRecord
from phalanx.errors import Conflict
from phalanx.stores.sql.changes import tell_open_sessions
from phalanx.stores.sql.database import Database
from phalanx.stores.sql.pages import page
from phalanx.stores.sql.tables import members, organisations, users


class SqlUserStore:
    """A `UserStore` over one table. The database is its maker's to close."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, user: UserRecord, organisation: OrganisationRecord, role: Role) -> None:
        """Store a user together with an organisation of their own. Raises `Conflict`; see the port."""
        row = {**msgspec.structs.asdict(user), "email": user.email.lower()}
        new_user = self._database.insert(users).values(row).on_conflict_do_nothing()
        new_organisation = self._database.insert(organisations).values(msgspec.structs.asdict(organisation))
        member = {"organisation": organisation.id, "user_id": user.id, "role": role, "joined_at": user.created_at}
        async with self._database.transaction() as connection:
            if not (await connection.execute(new_user)).rowcount:
                raise Conflict("there is a user with this email already")
            if not (await connection.execute(new_organisation.on_conflict_do_nothing())).rowcount:
                raise Conflict(f"there is an organisation {organisation.id!r} already")
            await connection.execute(insert(members).values(member))

    async def get(self, user_id: str) -> UserRecord | None:
        """Return a user, disabled ones too, or None."""
        return await self._one(users.c.id == user_id)

    async def find(self, email: str) -> UserRecord | None:
        """Return the user with this email, which is in lower case, or None."""
        return await self._one(users.c.email == email)

    async def list(self, *, after: str | None = None, limit: int | None = None) -> list[UserRecord]:
        """Return users, oldest first: at most `limit`, of those after the id `after`."""
        query = page(select(users), users, after=after, limit=limit)
        async with self._database.transaction() as connection:
            rows = (await connection.execute(query)).all()
        return [_record(row) for row in rows]

    async def update(
        self, user_id: str, *, password_hash: str | None = None, disabled_at: float | UnsetType | None = UNSET,
        staff: bool | None = None,
    ) -> UserRecord | None:  # fmt: skip
        """Change what is given, and tell the user's open sessions to the change feed; see the port."""
        values: dict[str, Any] = {} if disabled_at is UNSET else {"disabled_at": disabled_at}
        if password_hash is not None:
            values["password_hash"] = password_hash
        if staff is not None:
            values["staff"] = staff
        async with self._database.exclusive() as connection:
            if values:
                await connection.execute(update(users).where(users.c.id == user_id).values(values))
            row = (await connection.execute(select(users).where(users.c.id == user_id))).one_or_none()
            await tell_open_sessions(connection, user_id=user_id)
        return None if row is None else _record(row)

    async def rehash(self, user_id: str, former: str, password_hash: str) -> None:
        """Store another hash of the same password, unless the stored one is not `former` any more."""
        change = update(users).where(users.c.id == user_id, users.c.password_hash == former)
        async with self._database.transaction() as connection:
            await connection.execute(change.values(password_hash=password_hash))

    async def _one(self, which: ColumnElement[bool]) -> UserRecord | None:
        async with self._database.transaction() as connection:
            row = (await connection.execute(select(users).where(which))).one_or_none()
        return None if row is None else _record(row)


def _record(row: object) -> UserRecord:
    return msgspec.convert(row, UserRecord, from_attributes=True)
