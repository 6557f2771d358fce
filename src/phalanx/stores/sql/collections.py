"""The register of collections in the database."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, and_, delete, select, tuple_, update

from phalanx.ports import CollectionRecord
from phalanx.stores.sql.database import Database
from phalanx.stores.sql.tables import collections

KEY = (collections.c.organisation, collections.c.name)
Records = list[CollectionRecord]
COLUMNS = [collections.c[name] for name in CollectionRecord._fields]


class SqlCollectionStore:
    """A `CollectionStore` over one table. The database is its maker's to close."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, record: CollectionRecord) -> CollectionRecord:
        """Keep a record, unless there is one of that organisation and name; returns the one that is kept."""
        new = self._database.insert(collections).values(record._asdict()).on_conflict_do_nothing()
        while True:
            async with self._database.transaction() as connection:
                if (await connection.execute(new)).rowcount:
                    return record
            kept = await self.find(record.organisation, record.name)
            if kept is not None:
                return kept

    async def find(self, organisation: str, name: str) -> CollectionRecord | None:
        """Return a record."""
        found = await self._read(
            select(*COLUMNS).where(collections.c.organisation == organisation, collections.c.name == name)
        )
        return found[0] if found else None

    async def list_all(self, *, after: tuple[str, str] = ("", ""), limit: int = 100) -> Records:
        """Return records of all organisations, in the order of organisation and name, from the one behind `after`."""
        return await self._read(select(*COLUMNS).where(tuple_(*KEY) > after).order_by(*KEY).limit(limit))

    async def list(self, organisation: str, *, after: str = "", limit: int = 100) -> Records:
        """Return an organisation's records in the order of their names, from the one behind `after`."""
        theirs = select(*COLUMNS).where(collections.c.organisation == organisation, collections.c.name > after)
        return await self._read(theirs.order_by(collections.c.name).limit(limit))

    async def replace(self, known: CollectionRecord, new: CollectionRecord) -> bool:
        """Put a record in place of another, if that is what is kept; both have the same organisation and name."""
        as_known = and_(*(collections.c[name] == value for name, value in known._asdict().items()))
        async with self._database.transaction() as connection:
            done = await connection.execute(update(collections).where(as_known).values(new._asdict()))
        return bool(done.rowcount)

    async def delete(self, organisation: str, name: str) -> CollectionRecord | None:
        """Forget a record and return it; None when there was none."""
        gone = delete(collections).where(collections.c.organisation == organisation, collections.c.name == name)
        async with self._database.transaction() as connection:
            row = (await connection.execute(gone.returning(*COLUMNS))).one_or_none()
        return None if row is None else CollectionRecord(*row)

    async def _read(self, query: Select[Any]) -> Records:
        async with self._database.transaction() as connection:
            rows = (await connection.execute(query)).all()
        return [CollectionRecord(*row) for row in rows]
