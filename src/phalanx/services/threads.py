"""A few threads for work that lets go of the interpreter, with a bound on what waits for them."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from phalanx.errors import DeadlineExceeded, Overloaded
from phalanx.ports import Clock
from phalanx.services.ticket import Ticket

T = TypeVar("T")

RETRY_AFTER_S = 1.0


def seconds_left(ticket: Ticket, clock: Clock) -> float | None:
    """Return how long a call still has, 0 when its deadline is past, None when it has none."""
    return None if math.isinf(ticket.deadline) else max(0.0, ticket.deadline - clock.monotonic())


class BoundedThreads:
    """Runs at most `at_once` pieces of work, while at most `max_waiting` more wait. `name` is said in errors and to debuggers.

    Calls that are begun go before others. In the order of arrival alone, the second piece of the first of 60 large images
    waited for the first pieces of all others: one image was finished within the deadline, and all were decoded in memory.
    """

    def __init__(self, name: str, clock: Clock, *, at_once: int, max_waiting: int) -> None:
        self._name = name
        self._clock = clock
        self._limit = at_once + max_waiting
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix=name)
        self._begun: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._fresh: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._under_way = 0

    async def run(self, ticket: Ticket, work: Callable[[], T], *, is_begun: bool = False) -> T:
        """Do work in a thread. Raises `Overloaded` when too much waits, `DeadlineExceeded`, and what the work raises.

        What is cancelled, or overtaken by its deadline, while it waits is never begun; what has begun ends by itself, and
        keeps its thread until then. A call that `is_begun`, having had work done here, goes before those that have not, and
        is not refused: that would lose what was done.
        """
        if not is_begun and self._under_way >= self._limit:
            raise Overloaded(f"too many {self._name} are being worked on", retry_after_s=RETRY_AFTER_S)
        loop = asyncio.get_running_loop()
        job: Future[T] = Future()
        (self._begun if is_begun else self._fresh).append((job, work))
        self._threads.submit(self._do_next)
        self._under_way += 1
        job.add_done_callback(lambda done: self._note_end(loop, done))
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

    def _note_end(self, loop: asyncio.AbstractEventLoop, _: Future[T]) -> None:
        # A cancelled job ends on the loop's thread, any other on its own; a closed loop no longer counts.
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._count_down)

    def _count_down(self) -> None:
        self._under_way -= 1
