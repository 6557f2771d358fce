"""Checked keys kept in memory for a moment, so that the hot path does not ask the store about every call."""

from __future__ import annotations

from collections import OrderedDict

from phalanx.contract.keys import KeyRecord
from phalanx.ports import Clock, KeyStore

FRESH_S = 1.0
MAX_KEYS = 100_000


class Keyring:
    """Key records by digest. A record older than a second is asked for again, so a revocation counts within that time.

    Unknown digests are remembered as well: a flood of one wrong key costs one look-up a second.
    """

    def __init__(self, store: KeyStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._seen: OrderedDict[str, tuple[float, KeyRecord | None]] = OrderedDict()

    def __contains__(self, digest: str) -> bool:
        return digest in self._seen

    async def find(self, digest: str) -> KeyRecord | None:
        """Return the record of a digest or None. Raises `Unavailable` when the store is down."""
        now = self._clock.monotonic()
        seen = self._seen.get(digest)
        if seen is not None and now - seen[0] < FRESH_S:
            return seen[1]
        record = await self._store.find(digest)
        self._seen[digest] = (now, record)
        self._seen.move_to_end(digest)
        if len(self._seen) > MAX_KEYS:
            self._seen.popitem(last=False)
        return record
