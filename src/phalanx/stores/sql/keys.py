"""API keys in the database."""

from __future__ import annotations

import msgspec
from sqlalchemy import func, select, update

from phalanx.contract.keys import KeyRecord
from phalanx.errors import Conflict
from phalanx.stores.sql.database import Database
from phalanx.stores.sql.tables import api_keys


class SqlKeyStore:
    """A `KeyStore` over one table. The database is its maker's to close."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, digest: str) -> KeyRecord | None:
        """Return the key with this hex SHA-256, revoked and expired ones too, or None."""
        async with self._database.transaction() as connection:
            row = (await connection.execute(select(api_keys).where(api_keys.c.digest == digest))).one_or_none()
        return None if row is None else _record(row)

    async def add(self, record: KeyRecord) -> None:
        """Store a new key. Raises `Conflict` when its id or digest is already there."""
        statement = self._database.insert(api_keys).on_conflict_do_nothing().values(msgspec.structs.asdict(record))
        async with self._database.transaction() as connection:
            added = (await connection.execute(statement)).rowcount
        if not added:
            raise Conflict(f"the key {record.id!r}, or one with the same text, is there already")

    async def list(self, *, organisation: str | None = None) -> list[KeyRecord]:
        """Return all keys, or those of one organisation, oldest first."""
        query = select(api_keys).order_by(api_keys.c.created_at, api_keys.c.id)
        if organisation is not None:
            query = query.where(api_keys.c.organisation == organisation)
        async with self._database.transaction() as connection:
            rows = (await connection.execute(query)).all()
        return [_record(row) for row in rows]

    async def revoke(self, key_id: str, *, at: float) -> KeyRecord | None:
        """Mark a key revoked at `at` (epoch seconds); the first time stays. None if there is no such key."""
        change = (
            update(api_keys)
            .where(api_keys.c.id == key_id)
            .values(revoked_at=func.coalesce(api_keys.c.revoked_at, at))
            .returning(api_keys)
        )
        async with self._database.transaction() as connection:
            row = (await connection.execute(change)).one_or_none()
        return None if row is None else _record(row)

    async def ping(self) -> None:
        """Return when the store answers; raise `Unavailable` when it does not."""
        await self._database.ping()

    async def close(self) -> None:
        """Give back nothing: the database is closed by whoever opened it."""


def _record(row: object) -> KeyRecord:
    return msgspec.convert(row, KeyRecord, from_attributes=True)
