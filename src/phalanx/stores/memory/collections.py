"""The register of collections in memory."""

from __future__ import annotations

from phalanx.ports import CollectionRecord


class MemoryCollectionStore:
    """A `CollectionStore` over a dictionary."""

    def __init__(self) -> None:
        self._records: dict[tuple[str, str], CollectionRecord] = {}

    async def create(self, record: CollectionRecord) -> CollectionRecord:
        """Keep a record, unless there is one of that organisation and name; returns the one that is kept."""
        return self._records.setdefault((record.organisation, record.name), record)

    async def find(self, organisation: str, name: str) -> CollectionRecord | None:
        """Return a record."""
        return self._records.get((organisation, name))

    async def list_all(self, *, after: tuple[str, str] = ("", ""), limit: int = 100) -> list[CollectionRecord]:
        """Return records of all organisations, in the order of organisation and name, from the one behind `after`."""
        return [self._records[key] for key in sorted(self._records) if key > after][:limit]

    async def list(self, organisation: str, *, after: str = "", limit: int = 100) -> list[CollectionRecord]:
        """Return an organisation's records in the order of their names, from the one behind `after`."""
        found = sorted(key for key in self._records if key[0] == organisation and key[1] > after)
        return [self._records[key] for key in found[:limit]]

    async def replace(self, known: CollectionRecord, new: CollectionRecord) -> bool:
        """Put a record in place of another, if that is what is kept; both have the same organisation and name."""
        key = (known.organisation, known.name)
        if self._records.get(key) != known:
            return False
        self._records[key] = new
        return True

    async def delete(self, organisation: str, name: str) -> CollectionRecord | None:
        """Forget a record and return it; None when there was none."""
        return self._records.pop((organisation, name), None)
