"""Checked keys kept in memory for a moment, so that the hot path does not ask the store about every call."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from contextlib import suppress

from phalanx.contract.keys import KeyRecord
from phalanx.errors import Unavailable
from phalanx.ports import Clock, KeyStore

FRESH_S = 1.0
REFRESH_S = 0.4
MAX_KEYS = 100_000
IN_USE_S = 5.0
MAX_REFRESHED = 100


class Keyring:
    """Key records by digest. One older than a second is asked for again, so a revocation counts within that time.

    `watch` asks for the keys in use before they are that old, so that calls need not wait: without it a flood of 2,000
    calls waited for the store, and each for those before it. Calls that do wait for one key share one look-up. Unknown
    digests are remembered as well: a flood of one wrong key costs one look-up a second.
    """

    def __init__(self, store: KeyStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._seen: OrderedDict[str, tuple[float, KeyRecord | None]] = OrderedDict()
        self._asked: dict[str, asyncio.Task[KeyRecord | None]] = {}
        self._used: dict[str, float] = {}

    def __contains__(self, digest: str) -> bool:
        return digest in self._seen

    async def find(self, digest: str) -> KeyRecord | None:
        """Return the record of a digest or None. Raises `Unavailable` when the store is down."""
        now = self._clock.monotonic()
        if digest in self._used or len(self._used) < MAX_REFRESHED:
            self._used[digest] = now
        seen = self._seen.get(digest)
        if seen is not None and now - seen[0] < FRESH_S:
            return seen[1]
        asked = self._asked.get(digest)
        if asked is None:
            asked = self._asked[digest] = asyncio.create_task(self._ask(digest))
            asked.add_done_callback(lambda _: self._asked.pop(digest, None))
        # One caller's leaving must not take the answer from the others.
        return await asyncio.shield(asked)

    async def watch(self) -> None:
        """Ask anew, now and again, for up to a hundred keys used within the last seconds, until cancelled."""
        while True:
            await asyncio.sleep(REFRESH_S)
            since = self._clock.monotonic() - IN_USE_S
            self._used = {digest: used_at for digest, used_at in self._used.items() if used_at >= since}
            # A store that is down is said by `find`, once the record is too old.
            with suppress(Unavailable):
                for digest in list(self._used):
                    await self._ask(digest)

    async def _ask(self, digest: str) -> KeyRecord | None:
        # The answer is as old as the question: a key revoked meanwhile may not count as fresh for longer.
        asked_at = self._clock.monotonic()
        record = await self._store.find(digest)
        self._seen[digest] = (asked_at, record)
        self._seen.move_to_end(digest)
        if len(self._seen) > MAX_KEYS:
            self._seen.popitem(last=False)
        return record
