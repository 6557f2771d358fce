"""API keys in the database."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

import msgspec
from sqlalchemy import bindparam, case, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from phalanx.contract.keys import KeyRecord
from phalanx.errors import Conflict
from phalanx.stores.sql.changes import tell_keys
from phalanx.stores.sql.database import Database
from phalanx.stores.sql.pages import page
from phalanx.stores.sql.tables import api_keys, organisations

TOUCH_STEP = 1_000

_touch = (
    update(api_keys)
    .where(api_keys.c.id == bindparam("key_id"))
    .where(or_(api_keys.c.last_used_at.is_(None), api_keys.c.last_used_at < bindparam("used_at")))
    .values(last_used_at=bindparam("used_at"))
)


class SqlKeyStore:
    """A `KeyStore` over one table. The database is its maker's to close."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, digest: str) -> KeyRecord | None:
        """Return the key with this hex SHA-256, revoked and expired ones too, or None."""
        async with self._database.transaction() as connection:
            row = (await connection.execute(select(api_keys).where(api_keys.c.digest == digest))).one_or_none()
        return None if row is None else _record(row)

    async def get(self, key_id: str) -> KeyRecord | None:
        """Return the key with this id, or None."""
        async with self._database.transaction() as connection:
            row = (await connection.execute(select(api_keys).where(api_keys.c.id == key_id))).one_or_none()
        return None if row is None else _record(row)

    async def add(self, record: KeyRecord) -> None:
        """Store a new key, and its organisation if there is none; see the port. Raises `Conflict`."""
        async with self._database.transaction() as connection:
            await self._add(connection, record)

    async def list(
        self, *, organisation: str | None = None, after: str | None = None, limit: int | None = None
    ) -> list[KeyRecord]:
        """Return keys, or those of one organisation, oldest first: at most `limit`, of those after the id `after`."""
        query = page(select(api_keys), api_keys, after=after, limit=limit)
        if organisation is not None:
            query = query.where(api_keys.c.organisation == organisation)
        async with self._database.transaction() as connection:
            rows = (await connection.execute(query)).all()
        return [_record(row) for row in rows]

    async def revoke(self, key_id: str, *, at: float) -> KeyRecord | None:
        """Mark a key revoked at `at` (epoch seconds); the first time stays. None if there is no such key."""
        known = select(api_keys).where(api_keys.c.id == key_id)
        async with self._database.exclusive() as connection:
            row = (await connection.execute(known)).one_or_none()
            if row is not None and row.revoked_at is None:
                row = await _change(connection, key_id, revoked_at=at)
        return None if row is None else _record(row)

    async def rotate(self, key_id: str, replacement: KeyRecord, *, expires_at: float) -> KeyRecord | None:
        """Add `replacement` and let the old key end; see the port. Raises `Conflict`."""
        ends = api_keys.c.expires_at
        sooner = case((ends < expires_at, ends), else_=expires_at)
        valid = select(api_keys.c.id).where(api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None))
        async with self._database.exclusive() as connection:
            if (await connection.execute(valid)).one_or_none() is None:
                return None
            await self._add(connection, replacement)
            row = await _change(connection, key_id, expires_at=sooner)
        return _record(row)

    async def touch(self, used: Mapping[str, float]) -> None:
        """Note when keys (by id) were last used, in epoch seconds; an earlier time than the known one changes nothing.

        A thousand at a time, so that a revocation need not wait for long.
        """
        rows = iter(sorted(used.items()))
        while step := [{"key_id": key_id, "used_at": at} for key_id, at in islice(rows, TOUCH_STEP)]:
            async with self._database.exclusive() as connection:
                await connection.execute(_touch, step)

    async def ping(self) -> None:
        """Return when the store answers; raise `Unavailable` when it does not."""
        await self._database.ping()

    async def close(self) -> None:
        """Give back nothing: the database is closed by whoever opened it."""

    async def _add(self, connection: AsyncConnection, record: KeyRecord) -> None:
        name = record.organisation
        owner = {"id": name, "name": name, "tier": record.tier, "created_at": record.created_at}
        await connection.execute(self._database.insert(organisations).values(owner).on_conflict_do_nothing())
        key = self._database.insert(api_keys).values(msgspec.structs.asdict(record)).on_conflict_do_nothing()
        if not (await connection.execute(key)).rowcount:
            raise Conflict(f"the key {record.id!r}, or one with the same text, is there already")


async def _change(connection: AsyncConnection, key_id: str, **values: Any) -> Any:
    """Change a key, tell the feed, and return the row."""
    change = update(api_keys).where(api_keys.c.id == key_id).values(**values).returning(api_keys)
    row = (await connection.execute(change)).one()
    await tell_keys(connection, [row.digest])
    return row


def _record(row: object) -> KeyRecord:
    return msgspec.convert(row, KeyRecord, from_attributes=True)
