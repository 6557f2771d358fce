"""The usage journal: events are safe before the answer goes out, and reach the ledger in batches.

A call waits for one append, not for the database. What was appended survives the death of the process, and whoever
finds the journal of a dead one takes it over. Delivery is at least once, the ledger ignores ids that it has, so every
event counts once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from operator import attrgetter
from typing import Protocol

import msgspec

from phalanx.contract.usage import UsageEvent, UsageRow, UsageTotals
from phalanx.errors import Unavailable
from phalanx.ports import Books, UsageLedger, UsageQuery
from phalanx.telemetry import Log

FLUSH_EVERY_S = 5.0
FLUSH_EVENTS = 4000
ADOPT_EVERY_S = 10.0
BATCH_EVENTS = 500
_by_id = attrgetter("id")
_encode_lines = msgspec.json.Encoder().encode_lines
_decode = msgspec.json.Decoder(UsageEvent).decode

Deliver = Callable[[Sequence[UsageEvent]], Awaitable[object]]


def encode_lines(events: Sequence[UsageEvent]) -> bytes:
    """Return events as JSON, a line each."""
    # A list: given a tuple, msgspec 0.22 leaks 48 bytes a call.
    return _encode_lines(list(events))


def decode_line(line: bytes) -> UsageEvent | None:
    """Return the event of a line, or None when it is damaged. Lines of older versions lack the newer fields."""
    try:
        return _decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


class Journal(Protocol):
    """Where events wait for the ledger. Down or full: `unavailable`, and nothing of the batch is kept."""

    @property
    def name(self) -> str:
        """What no other journal is called, of whatever machine. Changes when it is opened."""
        ...

    @property
    def waiting(self) -> str:
        """How much waits, in words for the log."""
        ...

    async def open(self) -> None:
        """Take hold of it, and of what dead processes left. Raises `Unavailable`."""
        ...

    async def append(self, events: Sequence[UsageEvent]) -> None:
        """Keep events, all or none."""
        ...

    async def adopt(self) -> None:
        """Take over what processes left that died since. Raises `Unavailable`."""
        ...

    async def drain(self, deliver: Deliver) -> None:
        """Hand over in batches whatever was appended before this call, and forget each batch that was delivered.

        Raises what `deliver` raises; that batch and all after it stay.
        """
        ...

    async def finished(self) -> list[str]:
        """Return the names of journals whose processes are dead and of which everything was delivered."""
        ...

    async def forget(self, journals: Iterable[str]) -> None:
        """Do away with finished journals: the ledger knows."""
        ...

    async def close(self, *, is_finished: bool) -> None:
        """Let go. One that is not `is_finished` leaves what a successor needs in order to finish it."""
        ...


class Ledger(UsageLedger, Protocol):
    """A ledger that several journals feed. `is_shared` says whether they may be on different machines."""

    is_shared: bool

    async def complete_until(self, *, besides: str = "") -> float:
        """Return the least of what the journals announced, the one called `besides` left out."""
        ...

    async def announce(self, journal: str, complete_until: float) -> None:
        """Note that everything of a journal up to an instant (epoch seconds) is in the ledger."""
        ...

    async def dismiss(self, journals: Iterable[str]) -> None:
        """Forget journals of which nothing more will come."""
        ...


class JournaledUsageLog:
    """A `UsageLedger` behind a journal. `open` it before use and `close` it after.

    `oldest_open` gives the instant (epoch seconds) at which the oldest call began that is still open: the ledger is
    complete up to there, or up to the start of the latest flush. A journal is bounded: while the ledger is down it fills;
    from then on `record` raises `Unavailable`, for an answer that nobody recorded may not go out.
    """

    def __init__(
        self,
        ledger: Ledger,
        journal: Journal,
        *,
        log: Log,
        oldest_open: Callable[[], float | None] = lambda: None,
        flush_every_s: float = FLUSH_EVERY_S,
        flush_events: int = FLUSH_EVENTS,
        adopt_every_s: float = ADOPT_EVERY_S,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._journal = journal
        self._log = log
        self._oldest_open = oldest_open
        self._flush_every_s = flush_every_s
        self._flush_events = flush_events
        self._adopt_every_s = adopt_every_s
        self._now = now
        self._unflushed = 0
        self._complete_until = 0.0
        self._has_moved = False
        self._is_announced = False
        self._flushing = asyncio.Lock()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._failing = False

    async def open(self) -> None:
        """Take over what dead processes left and begin to flush. Raises `Unavailable`."""
        await self._journal.open()
        self._complete_until = self._now()
        # On a shared ledger others must know of this journal before it holds the first event.
        if self._ledger.is_shared:
            try:
                await self._announce()
            except Unavailable:
                await self._journal.close(is_finished=True)
                raise
        self._task = asyncio.create_task(self._run(), name="usage journal")

    async def record(self, events: Sequence[UsageEvent]) -> int:
        """Append events to the journal, all or none. Returns their number: an id that is there already, in the
        journal or the ledger, is dropped on its way into the ledger.
        """
        if self._task is None:
            raise Unavailable("the usage journal is not open")
        if events:
            await self._journal.append(events)
            self._unflushed += len(events)
            if self._unflushed >= self._flush_events:
                self._wake.set()
        return len(events)

    async def flush(self) -> None:
        """Bring what was recorded before this call into the ledger. Raises `Unavailable`; nothing is lost then."""
        async with self._flushing:
            self._unflushed = 0
            # A call that has ended recorded its event before it was taken off the list of open ones.
            now, oldest = self._now(), self._oldest_open()
            await self._journal.drain(self._deliver)
            self._complete_until = now if oldest is None else min(now, oldest)

    async def _deliver(self, events: Sequence[UsageEvent]) -> None:
        await self._ledger.record(sorted(events, key=_by_id))
        self._has_moved = True

    async def totals(self, *, organisation: str | None = None, since: float = 0.0, until: float = 1e12) -> UsageTotals:
        """Sum the events with `since <= at < until` (epoch seconds), those still in this journal included."""
        await self.flush()
        return await self._ledger.totals(organisation=organisation, since=since, until=until)

    async def report(self, query: UsageQuery) -> list[UsageRow]:
        """Read the daily sums, grouped, with what is still in this journal."""
        await self.flush()
        return await self._ledger.report(query)

    async def requests_by_organisation(self, *, since: float) -> dict[str, int]:
        """Count the billed requests since a day's first instant, those still in this journal included."""
        await self.flush()
        return await self._ledger.requests_by_organisation(since=since)

    async def complete_until(self) -> float:
        """Return the instant (epoch seconds) before which every event of every worker was in the ledger at this one's
        latest flush.
        """
        return min(self._complete_until, await self._ledger.complete_until(besides=self._journal.name))

    async def days(self) -> list[str]:
        """Return the days that have events or sums, in order, without those whose events were let go."""
        await self.flush()
        return await self._ledger.days()

    async def books(self, day: str) -> Books:
        """Return both books of a day."""
        return await self._ledger.books(day)

    async def repair(self, day: str) -> None:
        """Make the sums of a day anew from its events."""
        await self._ledger.repair(day)

    async def expire(self, days: int) -> int:
        """Let go of the events of days more than `days` days ago. Returns how many days went; their sums stay."""
        await self.flush()
        return await self._ledger.expire(days)

    async def ping(self) -> None:
        """Return when the ledger answers; raise `Unavailable` when it does not."""
        await self._ledger.ping()

    async def close(self) -> None:
        """Flush and let go of the journal. What cannot be flushed stays in it for the next process."""
        task, self._task = self._task, None
        if task is None:
            return
        self._wake.set()
        await task
        is_finished = await self._tried(self._finish)
        await self._journal.close(is_finished=is_finished)
        await self._ledger.close()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        adopt_at = loop.time() + self._adopt_every_s
        while self._task is not None:
            await self._pause()
            if loop.time() >= adopt_at:
                adopt_at = loop.time() + self._adopt_every_s
                with suppress(Unavailable):
                    await self._journal.adopt()
            await self._tried(self._move_on)

    async def _pause(self) -> None:
        """Wait for the next flush: for its time or a full batch, and always its time while the ledger is down."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._flush_every_s):
                await self._wake.wait()
                while self._failing and self._task is not None:
                    self._wake.clear()
                    await self._wake.wait()
        self._wake.clear()

    async def _move_on(self) -> None:
        """Flush, say how far this journal has got, and clear away those that are finished."""
        await self.flush()
        if self._has_moved or self._ledger.is_shared:
            await self._announce()
        await self._clear_away()

    async def _clear_away(self) -> None:
        finished = await self._journal.finished()
        if finished:
            await self._ledger.dismiss(finished)
            await self._journal.forget(finished)

    async def _announce(self) -> None:
        await self._ledger.announce(self._journal.name, self._complete_until)
        self._is_announced, self._has_moved = True, False

    async def _finish(self) -> None:
        await self.flush()
        await self._clear_away()
        if self._is_announced:
            await self._ledger.dismiss([self._journal.name])

    async def _tried(self, step: Callable[[], Awaitable[None]]) -> bool:
        """Whether a step went well. Logs when that begins to fail and when it works again; nothing may end the task."""
        try:
            await step()
        except Exception as error:
            if not self._failing:
                self._log.error("usage waits in the journal", reason=str(error), waiting=self._journal.waiting)
            self._failing = True
            return False
        if self._failing:
            self._log.info("usage reaches the ledger again")
        self._failing = False
        return True
