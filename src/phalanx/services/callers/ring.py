"""What was checked against a store a moment ago, kept in memory, so that the hot path does not ask about every call."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Generic, TypeVar

from phalanx.errors import Unavailable
from phalanx.ports import Clock
from phalanx.telemetry import Log

FRESH_S = 10.0
REFRESH_S = 5.0
"""Age from which a record in use is checked anew ahead of time, so that calls need not wait for it."""
GRACE_S = 300.0
UNKNOWN_S = 1.0
RETRY_S = 0.5
CHECK_TIMEOUT_S = 2.0
MAX_RECORDS = 100_000
MAX_UNKNOWN = 10_000
MAX_AHEAD = 32

R = TypeVar("R")


class _Entry(Generic[R]):
    """A record; `checked_at` is when the store was asked for it, the others when it must be asked again."""

    __slots__ = ("checked_at", "fresh_until", "record", "refresh_at")

    def __init__(self, record: R, checked_at: float) -> None:
        self.record = record
        self.checked_at = checked_at
        self.refresh_at = checked_at + REFRESH_S
        self.fresh_until = checked_at + FRESH_S


class Ring(Generic[R]):
    """Immutable records of a store, by id: the hundred thousand that were checked last.

    A record is fresh for ten seconds; an older one is checked before use. Those who wait for one id share a look-up. While
    the store cannot be reached, a record serves on until five minutes after it was last confirmed. That there is none is
    remembered for a second, apart from the records, so that a flood of wrong ids costs little and drives none of them out.

    An answer is as old as its question: one that was asked for before a change was heard of is thrown away, and asked for
    again. A record that is known to have changed does not serve on, even while the store is down.
    """

    def __init__(
        self,
        ask: Callable[[str], Awaitable[R | None]],
        clock: Clock,
        *,
        log: Log,
        on_check: Callable[[str], None] = lambda outcome: None,
    ) -> None:
        """`on_check` is told what became of each look-up: `found`, `unknown` or `unavailable`."""
        self._ask = ask
        self._now = clock.monotonic
        self._log = log
        self._on_check = on_check
        self._entries: OrderedDict[str, _Entry[R]] = OrderedDict()
        self._unknown: OrderedDict[str, float] = OrderedDict()
        self._checks: dict[str, asyncio.Task[R | None]] = {}
        self._outdated: set[str] = set()
        self._probe: asyncio.Task[None] | None = None

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def peek(self, name: str) -> R | None:
        """Return the record if it is fresh; None says nothing. Costs a look-up in a dictionary."""
        entry = self._entries.get(name)
        if entry is None:
            return None
        now = self._now()
        if now >= entry.refresh_at:
            if now >= entry.fresh_until:
                return None
            self._refresh(name, entry, now)
        return entry.record

    async def find(self, name: str) -> R | None:
        """Return the record, or None if there is none. Raises `Unavailable` when nobody can tell."""
        record = self.peek(name)
        if record is not None:
            return record
        now = self._now()
        if now < self._unknown.get(name, 0.0):
            return None
        if self._probe is not None and self._serves_on(name, now):
            return self._entries[name].record
        try:
            # One caller's leaving must not take the answer from the others.
            return await asyncio.shield(self._check(name))
        except Unavailable:
            if self._serves_on(name, self._now()):
                return self._entries[name].record
            raise

    def forget(self, names: Iterable[str]) -> None:
        """Hear that records changed: they are gone, and so is what is being asked about them."""
        for name in names:
            self._entries.pop(name, None)
            self._unknown.pop(name, None)
            if name in self._checks:
                self._outdated.add(name)

    def distrust(self) -> None:
        """Hear that any record may have changed: each is checked before it is used again."""
        for entry in self._entries.values():
            entry.refresh_at = entry.fresh_until = 0.0
        self._unknown.clear()
        self._outdated.update(self._checks)

    async def close(self) -> None:
        """Give up the look-ups under way."""
        tasks: list[asyncio.Task[Any]] = [*self._checks.values(), *([self._probe] if self._probe else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _serves_on(self, name: str, now: float) -> bool:
        entry = self._entries.get(name)
        return entry is not None and now < entry.checked_at + GRACE_S

    def _refresh(self, name: str, entry: _Entry[R], now: float) -> None:
        entry.refresh_at = now + RETRY_S
        if self._probe is None and len(self._checks) < MAX_AHEAD:
            self._check(name)

    def _check(self, name: str) -> asyncio.Task[R | None]:
        """Return the look-up under way, or start one."""
        check = self._checks.get(name)
        if check is None or check.done():
            check = self._checks[name] = asyncio.create_task(self._look_up(name))
            check.add_done_callback(lambda done: self._ended(name, done))
        return check

    async def _look_up(self, name: str) -> R | None:
        while True:
            self._outdated.discard(name)
            asked_at = self._now()
            record = await self._answer(name)
            if name not in self._outdated:
                self._keep(name, record, asked_at)
                return record

    async def _answer(self, name: str) -> R | None:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                return await self._ask(name)
        except TimeoutError:
            self._lose(name)
            raise Unavailable("the store did not answer in time") from None
        except Unavailable:
            self._lose(name)
            raise

    def _lose(self, name: str) -> None:
        """Go on without the store, and ask it time and again until it answers, so that nobody has to wait for it."""
        self._on_check("unavailable")
        if self._probe is None:
            self._probe = asyncio.create_task(self._ask_until_answered(name))

    async def _ask_until_answered(self, name: str) -> None:
        try:
            answered = False
            while not answered:
                await asyncio.sleep(RETRY_S)
                check = self._check(name)
                await asyncio.wait([check])
                answered = check.cancelled() or not isinstance(check.exception(), Unavailable)
        finally:
            self._probe = None

    def _keep(self, name: str, record: R | None, asked_at: float) -> None:
        self._on_check("unknown" if record is None else "found")
        if record is None:
            self._entries.pop(name, None)
            self._unknown[name] = asked_at + UNKNOWN_S
            if len(self._unknown) > MAX_UNKNOWN:
                self._unknown.popitem(last=False)
            return
        self._entries[name] = _Entry(record, asked_at)
        self._entries.move_to_end(name)
        if len(self._entries) > MAX_RECORDS:
            self._entries.popitem(last=False)

    def _ended(self, name: str, check: asyncio.Task[R | None]) -> None:
        if self._checks.get(name) is check:
            del self._checks[name]
            self._outdated.discard(name)
        error = None if check.cancelled() else check.exception()
        if error is not None and not isinstance(error, Unavailable):
            self._log.error("a record could not be checked", error=type(error).__name__)
