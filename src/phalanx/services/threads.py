"""A few threads for work that lets go of the interpreter, with a bound on what waits for them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from phalanx.errors import DeadlineExceeded, Overloaded
from phalanx.ports import Clock
from phalanx.services.ticket import Ticket

T = TypeVar("T")

RETRY_AFTER_S = 1.0


def seconds_left(ticket: Ticket, clock: Clock) -> float | None:
    """Return how long a call still has, 0 when its deadline is past, None when it has none."""
    return None if math.isinf(ticket.deadline) else max(0.0, ticket.deadline - clock.monotonic())


class BoundedThreads:
    """Runs at most `at_once` pieces of work, while at most `max_waiting` more wait. `name` is said in errors and to debuggers."""

    def __init__(self, name: str, clock: Clock, *, at_once: int, max_waiting: int) -> None:
        self._name = name
        self._clock = clock
        self._limit = at_once + max_waiting
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix=name)
        self._under_way = 0

    async def run(self, ticket: Ticket, work: Callable[[], T]) -> T:
        """Do work in a thread. Raises `Overloaded` when too much waits, `DeadlineExceeded`, and what the work raises.

        What is cancelled, or overtaken by its deadline, while it waits is never begun; what has begun ends by itself, and
        keeps its thread until then.
        """
        if self._under_way >= self._limit:
            raise Overloaded(f"too many {self._name} are being worked on", retry_after_s=RETRY_AFTER_S)
        loop = asyncio.get_running_loop()
        job = self._threads.submit(work)
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

    def _note_end(self, loop: asyncio.AbstractEventLoop, _: Future[T]) -> None:
        # A cancelled job ends on the loop's thread, any other on its own; a closed loop no longer counts.
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._count_down)

    def _count_down(self) -> None:
        self._under_way -= 1
