"""The change feed in memory."""

from __future__ import annotations

from itertools import islice

from phalanx.ports import Changes
from phalanx.stores.memory.directory import MemoryDirectory


class MemoryChangeFeed:
    """A `ChangeFeed` over a directory, which keeps the newest hundred thousand changes."""

    def __init__(self, directory: MemoryDirectory) -> None:
        self._directory = directory

    async def version(self) -> int:
        """Return the newest version; 0 when nothing ever changed."""
        return self._directory.version

    async def since(self, version: int, *, limit: int = 10_000) -> Changes | None:
        """Return what changed after a version; None when that is too much or too old to be told; see the port."""
        kept, newest = self._directory.changes, self._directory.version
        missing = newest - version
        if not 0 <= missing <= min(limit, len(kept)):
            return None
        return Changes(newest, list(islice(kept, len(kept) - missing, None)))
