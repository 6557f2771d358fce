"""API keys in memory."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from phalanx.contract.keys import KeyRecord
from phalanx.contract.users import OrganisationRecord
from phalanx.errors import Conflict
from phalanx.stores.memory.directory import MemoryDirectory
from phalanx.stores.memory.pages import page


class MemoryKeyStore:
    """A `KeyStore` over a directory, its own unless one is given."""

    def __init__(self, directory: MemoryDirectory | None = None) -> None:
        self._directory = directory or MemoryDirectory()

    async def find(self, digest: str) -> KeyRecord | None:
        """Return the key with this hex SHA-256, revoked and expired ones too, or None."""
        return self._directory.keys.get(self._directory.ids_by_digest.get(digest, ""))

    async def get(self, key_id: str) -> KeyRecord | None:
        """Return the key with this id, or None."""
        return self._directory.keys.get(key_id)

    async def add(self, record: KeyRecord) -> None:
        """Store a new key, and its organisation if there is none; see the port. Raises `Conflict`."""
        self._add(record)

    async def list(
        self, *, organisation: str | None = None, after: str | None = None, limit: int | None = None
    ) -> list[KeyRecord]:
        """Return keys, or those of one organisation, oldest first: at most `limit`, of those after the id `after`."""
        wanted = (r for r in self._directory.keys.values() if organisation is None or r.organisation == organisation)
        return page(wanted, after=after, limit=limit)

    async def revoke(self, key_id: str, *, at: float) -> KeyRecord | None:
        """Mark a key revoked at `at` (epoch seconds); the first time stays. None if there is no such key."""
        record = self._directory.keys.get(key_id)
        if record is not None and record.revoked_at is None:
            record = replace(record, revoked_at=at)
            self._change(record)
        return record

    async def rotate(self, key_id: str, replacement: KeyRecord, *, expires_at: float) -> KeyRecord | None:
        """Add `replacement` and let the old key end; see the port. Raises `Conflict`."""
        old = self._directory.keys.get(key_id)
        if old is None or old.revoked_at is not None:
            return None
        self._add(replacement)
        ended = replace(old, expires_at=expires_at if old.expires_at is None else min(old.expires_at, expires_at))
        self._change(ended)
        return ended

    async def touch(self, used: Mapping[str, float]) -> None:
        """Note when keys (by id) were last used, in epoch seconds; an earlier time than the known one changes nothing."""
        for key_id, at in used.items():
            record = self._directory.keys.get(key_id)
            if record is not None and (record.last_used_at is None or record.last_used_at < at):
                self._directory.put_key(replace(record, last_used_at=at))

    async def ping(self) -> None:
        """Return at once: memory is never down."""

    async def close(self) -> None:
        """Give back nothing: there is nothing to give."""

    def _add(self, record: KeyRecord) -> None:
        directory = self._directory
        if record.id in directory.keys or record.digest in directory.ids_by_digest:
            raise Conflict(f"the key {record.id!r}, or one with the same text, is there already")
        directory.put_key(record)
        name = record.organisation
        owner = OrganisationRecord(id=name, name=name, tier=record.tier, created_at=record.created_at)
        directory.organisations.setdefault(name, owner)

    def _change(self, record: KeyRecord) -> None:
        self._directory.put_key(record)
        self._directory.tell_keys([record])
