"""The audit log in the database."""

from __future__ import annotations

import msgspec
from sqlalchemy import select

from phalanx.contract.audit import AuditEntry
from phalanx.errors import Conflict
from phalanx.stores.sql.database import Database
from phalanx.stores.sql.tables import audit_log


class SqlAuditLog:
    """An `AuditLog` over one table. The database is its maker's to close."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(self, entry: AuditEntry) -> None:
        """Add an entry. Raises `Conflict` when its id is there already: an entry is never changed."""
        statement = self._database.insert(audit_log).values(msgspec.structs.asdict(entry)).on_conflict_do_nothing()
        async with self._database.transaction() as connection:
            added = (await connection.execute(statement)).rowcount
        if not added:
            raise Conflict(f"there is an entry {entry.id!r} already")

    async def list(
        self, *, organisation: str | None, action: str | None, before: str | None, limit: int
    ) -> list[AuditEntry]:
        """Return entries, newest first, older than the id `before`."""
        query = select(audit_log).order_by(audit_log.c.id.desc()).limit(limit)
        if organisation is not None:
            query = query.where(audit_log.c.organisation == organisation)
        if action is not None:
            query = query.where(audit_log.c.action == action)
        if before is not None:
            query = query.where(audit_log.c.id < before)
        async with self._database.transaction() as connection:
            rows = (await connection.execute(query)).all()
        return [msgspec.convert(row, AuditEntry, from_attributes=True) for row in rows]
