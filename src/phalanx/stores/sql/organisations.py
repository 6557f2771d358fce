"""Organisations and their members in the database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Select, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from phalanx.contract.keys import Tier
from phalanx.contract.users import MemberRecord, OrganisationRecord, Role
from phalanx.errors import Conflict, NotFound
from phalanx.stores.sql.changes import tell_keys, tell_open_sessions, tell_sessions
from phalanx.stores.sql.database import Database
from phalanx.stores.sql.pages import page
from phalanx.stores.sql.tables import api_keys, members, organisations, sessions, users


class SqlOrganisationStore:
    """An `OrganisationStore` over two tables. The database is its maker's to close."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, organisation: OrganisationRecord, *, admin: str | None = None) -> None:
        """Store an organisation, with a user as its admin if given. Raises `Conflict` and `NotFound`; see the port."""
        new = self._database.insert(organisations).values(msgspec.structs.asdict(organisation))
        async with self._database.transaction() as connection:
            if not (await connection.execute(new.on_conflict_do_nothing())).rowcount:
                raise Conflict(f"there is an organisation {organisation.id!r} already")
            if admin is not None:
                await self._put(connection, organisation.id, admin, "admin", at=organisation.created_at)

    async def get(self, organisation: str) -> OrganisationRecord | None:
        """Return an organisation or None."""
        async with self._database.transaction() as connection:
            return await _find(connection, organisation)

    async def update(
        self, organisation: str, *, name: str | None = None, tier: Tier | None = None
    ) -> OrganisationRecord | None:
        """Change what is given; a tier also that of all its keys, which are then told to the change feed."""
        async with self._database.exclusive() as connection:
            before = await _find(connection, organisation)
            if before is None:
                return None
            after = msgspec.structs.replace(before, name=name or before.name, tier=tier or before.tier)
            change = update(organisations).where(organisations.c.id == organisation)
            await connection.execute(change.values(name=after.name, tier=after.tier))
            if tier is not None:
                others = (api_keys.c.organisation == organisation, api_keys.c.tier != tier)
                keys = update(api_keys).where(*others).values(tier=tier).returning(api_keys.c.digest)
                await tell_keys(connection, (await connection.execute(keys)).scalars())
            if after.tier != before.tier:
                await tell_open_sessions(connection, organisation=organisation)
        return after

    async def members(self, organisation: str) -> list[MemberRecord]:
        """Return the members in the order of joining; none for an organisation that is not there."""
        query = (
            select(members, users.c.email)
            .join(users, users.c.id == members.c.user_id)
            .where(members.c.organisation == organisation)
            .order_by(members.c.joined_at, members.c.user_id)
        )
        async with self._database.transaction() as connection:
            rows = (await connection.execute(query)).all()
        return [msgspec.convert(row, MemberRecord, from_attributes=True) for row in rows]

    async def list(self, *, after: str | None = None, limit: int | None = None) -> list[OrganisationRecord]:
        """Return organisations, oldest first: at most `limit`, of those after the id `after`."""
        return list(await self._all(page(select(organisations), organisations, after=after, limit=limit)))

    async def list_of(self, user_id: str) -> Sequence[OrganisationRecord]:
        """Return the organisations of a user in the order of joining."""
        query = select(organisations).join(members, members.c.organisation == organisations.c.id)
        query = query.where(members.c.user_id == user_id).order_by(members.c.joined_at, organisations.c.id)
        return await self._all(query)

    async def _all(self, query: Select[Any]) -> Sequence[OrganisationRecord]:
        async with self._database.transaction() as connection:
            rows = (await connection.execute(query)).all()
        return [_record(row) for row in rows]

    async def put_member(self, organisation: str, user_id: str, role: Role, *, at: float) -> None:
        """Add a member, or change a member's role. Raises `NotFound` and `Conflict`; see the port."""
        async with self._database.exclusive() as connection:
            if await _find(connection, organisation) is None:
                raise NotFound(f"there is no organisation {organisation!r}")
            if role != "admin":
                await _keep_an_admin(connection, organisation, besides=user_id)
            await self._put(connection, organisation, user_id, role, at=at)
            await tell_open_sessions(connection, user_id=user_id, organisation=organisation)

    async def remove_member(self, organisation: str, user_id: str, *, at: float) -> bool:
        """Take a member out and end their sessions there. Raises `Conflict`; see the port."""
        member = delete(members).where(members.c.organisation == organisation, members.c.user_id == user_id)
        theirs = (sessions.c.organisation == organisation, sessions.c.user_id == user_id, sessions.c.ended_at.is_(None))
        end = update(sessions).where(*theirs).values(ended_at=at).returning(sessions.c.id)
        async with self._database.exclusive() as connection:
            await _keep_an_admin(connection, organisation, besides=user_id)
            if not (await connection.execute(member)).rowcount:
                return False
            await tell_sessions(connection, (await connection.execute(end)).scalars())
        return True

    async def _put(
        self, connection: AsyncConnection, organisation: str, user_id: str, role: Role, *, at: float
    ) -> None:
        if (await connection.execute(select(users.c.id).where(users.c.id == user_id))).one_or_none() is None:
            raise NotFound(f"there is no user {user_id!r}")
        member = {"organisation": organisation, "user_id": user_id, "role": role, "joined_at": at}
        put = self._database.insert(members).values(member)
        key = ["organisation", "user_id"]
        await connection.execute(put.on_conflict_do_update(index_elements=key, set_={"role": role}))


async def _find(connection: AsyncConnection, organisation: str) -> OrganisationRecord | None:
    query = select(organisations).where(organisations.c.id == organisation)
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else _record(row)


async def _keep_an_admin(connection: AsyncConnection, organisation: str, *, besides: str) -> None:
    """Raise `Conflict` if the user `besides` is the only admin."""
    query = select(members.c.user_id).where(members.c.organisation == organisation, members.c.role == "admin")
    if list((await connection.execute(query.limit(2))).scalars()) == [besides]:
        raise Conflict("an organisation keeps at least one admin: make another member one first")


def _record(row: object) -> OrganisationRecord:
    return msgspec.convert(row, OrganisationRecord, from_attributes=True)
