"""The usage journal: events are safe in a file before the answer goes out, and reach the ledger in batches.

A call waits for one `write`, not for the database. What was written survives the death of the process: every process
has files of its own, and whoever finds one whose process is gone takes it over. Delivery is at least once, the ledger
ignores ids that it has, so every event counts once. A power failure may cost what was not yet flushed, about a second
of events: only the database is synced to the disk.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from operator import attrgetter
from pathlib import Path

from phalanx.contract.usage import UsageEvent, UsageTotals
from phalanx.errors import Unavailable
from phalanx.ports import UsageLog
from phalanx.stores.sql.segment import SUFFIX, Segment
from phalanx.telemetry import Log

FLUSH_EVERY_S = 1.0
FLUSH_EVENTS = 4000
BATCH_EVENTS = 500
ADOPT_EVERY_S = 10.0
SEGMENT_BYTES = 16 * 2**20
MAX_BYTES = 2**30
_by_id = attrgetter("id")


class JournaledUsageLog:
    """A `UsageLog` in front of another one. `open` it before use and `close` it after.

    The journal is bounded: while the ledger is down it grows up to `max_bytes`; from then on, and when the disk is
    full, `record` raises `Unavailable`, for an answer that nobody recorded may not go out.
    """

    def __init__(
        self,
        ledger: UsageLog,
        folder: Path,
        *,
        log: Log,
        flush_every_s: float = FLUSH_EVERY_S,
        flush_events: int = FLUSH_EVENTS,
        adopt_every_s: float = ADOPT_EVERY_S,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._ledger = ledger
        self._folder = folder
        self._log = log
        self._flush_every_s = flush_every_s
        self._flush_events = flush_events
        self._adopt_every_s = adopt_every_s
        self._max_bytes = max_bytes
        self._current: Segment | None = None
        self._sealed: deque[Segment] = deque()
        self._unflushed = 0
        self._flushing = asyncio.Lock()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._failing = False
        self.waiting_bytes = 0

    async def open(self) -> None:
        """Take over what dead processes left and begin to flush. Raises `Unavailable` without a writable folder."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not os.access(self._folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            self._adopt()
        except OSError as error:
            raise Unavailable(f"the usage journal cannot be opened: {error.strerror}; see DATA_DIR") from error
        self._task = asyncio.create_task(self._run(), name="usage journal")

    async def record(self, events: Sequence[UsageEvent]) -> int:
        """Append events to the journal, all or none. Returns their number: an id that is there already, in the
        journal or the ledger, is dropped on its way into the ledger.
        """
        self.append(events)
        return len(events)

    def append(self, events: Sequence[UsageEvent]) -> None:
        """Do what `record` does, for callers that are no coroutine. Raises `Unavailable`."""
        if self._task is None:
            raise Unavailable("the usage journal is not open")
        if not events:
            return
        if self.waiting_bytes >= self._max_bytes:
            raise Unavailable(
                f"{self.waiting_bytes} bytes of usage wait for the database, {self._max_bytes} are allowed"
            )
        try:
            if self._current is None:
                self._current = Segment.create(self._folder)
            self.waiting_bytes += self._current.append(events)
        except OSError as error:
            raise Unavailable(f"the usage journal cannot be written: {error.strerror}") from error
        self._unflushed += len(events)
        if self._unflushed >= self._flush_events:
            self._wake.set()
            if self._current.size >= SEGMENT_BYTES:
                self._seal()

    async def flush(self) -> None:
        """Bring what was recorded before this call into the ledger. Raises `Unavailable`; nothing is lost then."""
        async with self._flushing:
            await self._drain()
            self._seal()
            await self._drain()

    async def totals(self, *, organisation: str | None = None, since: float = 0.0, until: float = 1e12) -> UsageTotals:
        """Sum the events with `since <= at < until` (epoch seconds), those still in this journal included."""
        await self.flush()
        return await self._ledger.totals(organisation=organisation, since=since, until=until)

    async def requests_by_organisation(self, *, since: float) -> dict[str, int]:
        """Count the billable requests since an instant, those still in this journal included."""
        await self.flush()
        return await self._ledger.requests_by_organisation(since=since)

    async def ping(self) -> None:
        """Return when the ledger answers; raise `Unavailable` when it does not."""
        await self._ledger.ping()

    async def close(self) -> None:
        """Flush and let go of all files. What cannot be flushed stays in its file for the next process."""
        task, self._task = self._task, None
        if task is None:
            return
        self._wake.set()
        await task
        await self._try_to_flush()
        self._seal()
        for segment in self._sealed:
            segment.release()
        self._sealed.clear()
        await self._ledger.close()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        adopt_at = loop.time() + self._adopt_every_s
        while self._task is not None:
            await self._pause()
            if loop.time() >= adopt_at:
                adopt_at = loop.time() + self._adopt_every_s
                with suppress(OSError):
                    self._adopt()
            await self._try_to_flush()

    async def _pause(self) -> None:
        """Wait for the next flush: for a second or a full batch, and always a second while the ledger is down."""
        if self._failing:
            await asyncio.sleep(self._flush_every_s)
        else:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._flush_every_s):
                    await self._wake.wait()
        self._wake.clear()

    async def _try_to_flush(self) -> None:
        """Flush, and log when that begins to fail and when it works again. Whatever fails may not end the task."""
        try:
            await self.flush()
        except Exception as error:
            if not self._failing:
                self._log.error("usage waits in the journal", reason=str(error), waiting_bytes=self.waiting_bytes)
            self._failing = True
            return
        if self._failing:
            self._log.info("usage reaches the ledger again")
        self._failing = False

    async def _drain(self) -> None:
        while self._sealed:
            segment = self._sealed[0]
            for batch in segment.batches(min(self._flush_events, BATCH_EVENTS)):
                await self._ledger.record(sorted(batch, key=_by_id))
            if segment.damaged:
                self._log.error("usage journal damaged", file=segment.path.name, lines=segment.damaged)
            segment.remove()
            self._sealed.popleft()
            self.waiting_bytes -= segment.size

    def _seal(self) -> None:
        if self._current is not None:
            self._sealed.append(self._current)
            self._current = None
            self._unflushed = 0

    def _adopt(self) -> None:
        """Take over the files of processes that are gone. Ours, and those of the living, are held."""
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            segment = Segment.adopt(path)
            if segment is not None:
                self._sealed.append(segment)
                self.waiting_bytes += segment.size
