"""The audit log in memory."""

from __future__ import annotations

from phalanx.contract.audit import AuditEntry
from phalanx.errors import Conflict


class MemoryAuditLog:
    """An `AuditLog` over a dictionary."""

    def __init__(self) -> None:
        self._entries: dict[str, AuditEntry] = {}

    async def append(self, entry: AuditEntry) -> None:
        """Add an entry. Raises `Conflict` when its id is there: an entry is never changed."""
        if entry.id in self._entries:
            raise Conflict(f"there is an entry {entry.id!r} already")
        self._entries[entry.id] = entry

    async def list(
        self, *, organisation: str | None, action: str | None, before: str | None, limit: int
    ) -> list[AuditEntry]:
        """Return entries, newest first, older than the id `before`."""
        found = (
            entry
            for entry in self._entries.values()
            if organisation in (None, entry.organisation)
            and action in (None, entry.action)
            and (before is None or entry.id < before)
        )
        return sorted(found, key=lambda entry: entry.id, reverse=True)[:limit]
