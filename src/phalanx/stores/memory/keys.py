"""API keys in memory."""

from __future__ import annotations

import msgspec

from phalanx.contract.keys import KeyRecord
from phalanx.errors import Conflict


class MemoryKeyStore:
    """A `KeyStore` over two dictionaries. Records are immutable, so they are handed out as they are."""

    def __init__(self) -> None:
        self._by_id: dict[str, KeyRecord] = {}
        self._by_digest: dict[str, KeyRecord] = {}

    async def find(self, digest: str) -> KeyRecord | None:
        """Return the key with this hex SHA-256, revoked and expired ones too, or None."""
        return self._by_digest.get(digest)

    async def add(self, record: KeyRecord) -> None:
        """Store a new key. Raises `Conflict` when its id or digest is already there."""
        if record.id in self._by_id or record.digest in self._by_digest:
            raise Conflict(f"the key {record.id!r}, or one with the same text, is there already")
        self._put(record)

    async def list(self, *, organisation: str | None = None) -> list[KeyRecord]:
        """Return all keys, or those of one organisation, oldest first."""
        wanted = (r for r in self._by_id.values() if organisation is None or r.organisation == organisation)
        return sorted(wanted, key=lambda record: (record.created_at, record.id))

    async def revoke(self, key_id: str, *, at: float) -> KeyRecord | None:
        """Mark a key revoked at `at` (epoch seconds); the first time stays. None if there is no such key."""
        record = self._by_id.get(key_id)
        if record is not None and record.revoked_at is None:
            record = msgspec.structs.replace(record, revoked_at=at)
            self._put(record)
        return record

    async def ping(self) -> None:
        """Return at once: memory is never down."""

    async def close(self) -> None:
        """Give back nothing: there is nothing to give."""

    def _put(self, record: KeyRecord) -> None:
        self._by_id[record.id] = record
        self._by_digest[record.digest] = record
