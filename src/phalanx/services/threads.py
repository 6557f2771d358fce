"""A few threads for work that lets go of the interpreter, with a bound on what waits for them."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from phalanx.errors import DeadlineExceeded, Overloaded
from phalanx.ports import Clock
from phalanx.services.ticket import Ticket

T = TypeVar("T")

RETRY_AFTER_S = 1.0
LONGEST_RETRY_S = 10.0

CERTAINTY = 0.5
"""The part of its time in which a call must be done by prediction: a rate is an average, and after its turn here a call waits for
the detector, and is encoded."""

RATE_MEMORY = 0.9
"""How much of the measured rate each piece of work leaves in place: the last ten or so decide it."""

FIRST_S = 0.25
"""Seconds of work for which the rate counts that is only supposed."""


def seconds_left(ticket: Ticket, clock: Clock) -> float | None:
    """Return how long a call still has, 0 when its deadline is past, None when it has none."""
    return None if math.isinf(ticket.deadline) else max(0.0, ticket.deadline - clock.monotonic())


class Load:
    """The costs of the work that is under way, and how much is done a second while there is any.

    `rate` is supposed until some was measured. All that slows the work down is in it: what goes first, and who else has the
    processors. It is a ratio of two decaying sums, so that a small piece weighs little.
    """

    def __init__(self, rate: float) -> None:
        self.under_way = 0
        self._cost, self._seconds, self._pieces = rate * FIRST_S, FIRST_S, 1.0
        self._since = 0.0

    def begin(self, cost: int, now: float) -> None:
        """Note work that begins to wait at `now` (monotonic seconds)."""
        if not self.under_way:
            self._since = now
        self.under_way += cost

    def end(self, cost: int, now: float, *, is_good: bool) -> None:
        """Note that it was worked on; what failed says nothing of the rate."""
        self.drop(cost)
        if is_good:
            self._cost = RATE_MEMORY * self._cost + cost
            self._seconds = RATE_MEMORY * self._seconds + now - self._since
            self._pieces = RATE_MEMORY * self._pieces + 1
        self._since = now

    def drop(self, cost: int) -> None:
        """Note that it will not be done."""
        self.under_way -= cost

    def seconds(self, cost: float) -> float:
        """Return how long work will take."""
        return cost * self._seconds / self._cost

    @property
    def usual(self) -> float:
        """What a piece of work costs lately."""
        return self._cost / self._pieces


class BoundedThreads:
    """Runs at most `at_once` pieces of work, while at most `max_waiting` more wait. `name` is said in errors and to debuggers.

    Work may have a `cost`, in any unit, of which about `rate` are done a second: measured once there was some. What by that
    cannot be done in time is refused before it waits. What finds a thread free is not: nobody can say how long it takes, and
    what is too large for half of the time would never be done.

    Calls that are begun go before others. In the order of arrival alone, the second piece of the first of 60 large images
    waited for the first pieces of all others: one image was finished within the deadline, and all were decoded in memory.
    """

    def __init__(self, name: str, clock: Clock, *, at_once: int, max_waiting: int, rate: float = 1.0) -> None:
        self._name = name
        self._clock = clock
        self._at_once = at_once
        self._load = Load(rate)
        self._coming = 0
        self._free_at = 0.0
        self._limit = at_once + max_waiting
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix=name)
        self._begun: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._fresh: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._under_way = 0

    def require(self, ticket: Ticket, cost: int | None = None) -> None:
        """Raise `Overloaded`, with the seconds in which what waits will be done, for work that has no room or comes too late.

        Where the cost is not known yet, it and those of all that are `coming` are taken to be usual.
        """
        load, coming, own = self._load, 0, float(cost or 0)
        if cost is None:
            coming, own = self._coming, load.usual
        if self._under_way + coming < self._at_once:
            return
        left = seconds_left(ticket, self._clock)
        is_late = left is not None and load.seconds(load.under_way + coming * own + own) > CERTAINTY * left
        if is_late or self._under_way >= self._limit:
            # Each that is refused is told to come when those before it are done, lest all come back at once.
            now = self._clock.monotonic()
            free_at = max(self._free_at, now + load.seconds(load.under_way)) + load.seconds(own)
            self._free_at = min(free_at, now + LONGEST_RETRY_S)
            seconds = max(RETRY_AFTER_S, float(math.ceil(self._free_at - now)))
            why = "to be done in time" if is_late else "at once"
            said = f"too many {self._name} are being worked on {why}; try again in {seconds:.0f} s"
            raise Overloaded(said, retry_after_s=seconds)

    @contextmanager
    def coming(self) -> Iterator[None]:
        """Count as coming a call whose work begins once its cost is known."""
        self._coming += 1
        try:
            yield
        finally:
            self._coming -= 1

    async def run(self, ticket: Ticket, work: Callable[[], T], *, is_begun: bool = False, cost: int = 0) -> T:
        """Do work in a thread, for which there was room by `require`. Raises `DeadlineExceeded`, and what the work raises.

        What is cancelled, or overtaken by its deadline, while it waits is never begun; what has begun ends by itself, and
        keeps its thread until then. A call that `is_begun`, having had work done here, goes before those that have not.
        """
        loop = asyncio.get_running_loop()
        job: Future[T] = Future()
        (self._begun if is_begun else self._fresh).append((job, work))
        self._threads.submit(self._do_next)
        self._under_way += 1
        if cost:
            self._load.begin(cost, self._clock.monotonic())
        job.add_done_callback(lambda done: self._note_end(loop, done, cost))
        try:
            async with asyncio.timeout(seconds_left(ticket, self._clock)):
                return await asyncio.wrap_future(job)
        except TimeoutError:
            raise DeadlineExceeded(f"the {self._name} were not finished before the deadline") from None

    def close(self) -> None:
        """Drop what waits; what is under way ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        while (entry := self._next()) is not None:
            entry[0].cancel()

    def _do_next(self) -> None:
        """Do the piece of work that is next, if one is wanted still. In a thread, once for each piece."""
        while (entry := self._next()) is not None:
            job, work = entry
            if not job.set_running_or_notify_cancel():
                continue
            try:
                result = work()
            except BaseException as error:
                job.set_exception(error)
            else:
                job.set_result(result)
            return

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        for waiting in (self._begun, self._fresh):
            try:
                return waiting.popleft()
            except IndexError:
                continue
        return None

    def _note_end(self, loop: asyncio.AbstractEventLoop, job: Future[T], cost: int) -> None:
        # A cancelled job ends on the loop's thread, any other on its own; a closed loop no longer counts.
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._count_down, job, cost)

    def _count_down(self, job: Future[Any], cost: int) -> None:
        self._under_way -= 1
        if not cost:
            return
        if job.cancelled():
            self._load.drop(cost)
        else:
            self._load.end(cost, self._clock.monotonic(), is_good=job.exception() is None)
