"""The first-level cache of vectors."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from phalanx.ports import CachedVector


class MemoryVectorCache:
    """A `VectorCache` that keeps the `max_entries` vectors used last; 0 keeps none."""

    def __init__(self, max_entries: int) -> None:
        if max_entries < 0:
            raise ValueError(f"max_entries is {max_entries}; it is 0 or more")
        self._max_entries = max_entries
        self._entries: OrderedDict[bytes, CachedVector] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    async def get_many(self, keys: Sequence[bytes]) -> list[CachedVector | None]:
        """Return what is kept under each key, in order; None where there is nothing."""
        entries, touch = self._entries, self._entries.move_to_end
        found: list[CachedVector | None] = []
        for key in keys:
            hit = entries.get(key)
            if hit is not None:
                touch(key)
            found.append(hit)
        return found

    async def set_many(self, entries: Sequence[tuple[bytes, CachedVector]]) -> None:
        """Keep vectors, each as the one used last, and drop those unused longest where room is short."""
        kept = self._entries
        for key, vector in entries:
            kept[key] = vector
            kept.move_to_end(key)
            if len(kept) > self._max_entries:
                kept.popitem(last=False)
