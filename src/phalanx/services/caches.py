"""Two caches, one behind the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic

from phalanx.ports import Cache
from phalanx.ports.caches import V


class TieredCache(Generic[V]):
    """A `Cache` made of two: what the first does not have is asked of the second, in one call, and then kept by the first."""

    def __init__(
        self,
        first: Cache[V],
        second: Cache[V],
        *,
        on_hits: Callable[[int, int], None] = lambda tier, hits: None,
    ) -> None:
        """`on_hits` is told how many values tier 1 or 2 had, when it had any."""
        self._first = first
        self._second = second
        self._on_hits = on_hits

    async def get_many(self, keys: Sequence[bytes]) -> list[V | None]:
        """Return what either keeps under each key, in order; None where there is nothing."""
        found = await self._first.get_many(keys)
        missing = [index for index, hit in enumerate(found) if hit is None]
        if len(missing) < len(keys):
            self._on_hits(1, len(keys) - len(missing))
        if missing:
            await self._fill(found, keys, missing)
        return found

    async def set_many(self, entries: Sequence[tuple[bytes, V]]) -> None:
        """Keep values in both."""
        await self._first.set_many(entries)
        await self._second.set_many(entries)

    async def _fill(self, found: list[V | None], keys: Sequence[bytes], missing: Sequence[int]) -> None:
        hits = []
        for index, hit in zip(missing, await self._second.get_many([keys[i] for i in missing]), strict=True):
            if hit is not None:
                found[index] = hit
                hits.append((keys[index], hit))
        if hits:
            self._on_hits(2, len(hits))
            await self._first.set_many(hits)
