"""Who waits for what: requests on an event loop, jobs on the engine thread, and the one wake-up between
them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Generic, NamedTuple

from phalanx.engines.batcher import Entry
from phalanx.engines.meter import BatchFacts
from phalanx.errors import PhalanxError
from phalanx.ports import Finished
from phalanx.ports.engines import P, R

Wait = asyncio.Future[None]
Failure = Callable[[], PhalanxError] | None
"""Makes the error that a wait ends with, a new one each time; None when it ends well."""


class Request:
    """One call of `submit`: its results so far, how many are `left`, and the future that wakes its caller."""

    __slots__ = ("jobs", "left", "results", "submitted_at", "wait")

    def __init__(self, size: int, submitted_at: float) -> None:
        self.wait: Wait = asyncio.get_running_loop().create_future()
        self.jobs: list[Job[Any]] = []
        self.left = size
        self.results: list[Any] = [None] * size
        self.submitted_at = submitted_at


class Job(Entry, Generic[P]):
    """One item to compute, with the requests that wait for it and where in each of them its result belongs.

    `key` is what equal items share, or None; `queued` is true until a batch takes it or it is dropped.
    """

    __slots__ = ("item", "key", "length", "queued", "queued_at", "waiters")

    def __init__(self, item: P, key: Hashable, *, tenant: str, deadline: float, now: float) -> None:
        super().__init__(tenant=tenant, length=item.length, deadline=deadline)
        self.item = item
        self.key = key
        self.length = item.length
        self.queued = True
        self.queued_at = now
        self.waiters: dict[Request, list[int]] = {}

    def finish(self, outcome: Any, started: float, finished: float) -> list[Request]:
        """Give the outcome to all who wait, and return the requests that are complete now."""
        complete = []
        for request, indices in self.waiters.items():
            # Who joined while the batch ran did not wait in the queue and shared only the rest of its time.
            joined = max(started, request.submitted_at)
            result = outcome
            if not isinstance(outcome, PhalanxError):
                result = Finished(outcome, joined - request.submitted_at, finished - joined)
            for index in indices:
                request.results[index] = result
            request.left -= len(indices)
            if not request.left:
                complete.append(request)
        self.waiters.clear()
        return complete


class Computed(NamedTuple, Generic[P, R]):
    """A batch with the outcome of each item and when the engine started and finished (monotonic seconds)."""

    batch: list[Job[P]]
    outcomes: Sequence[R | PhalanxError]
    started: float
    finished: float

    def facts(self) -> BatchFacts:
        """Return what metrics want to know of it."""
        return BatchFacts(
            items=len(self.batch),
            failed=sum(isinstance(outcome, PhalanxError) for outcome in self.outcomes),
            tokens=sum(job.length for job in self.batch),
            padded_tokens=len(self.batch) * max(job.cost for job in self.batch),
            queue_s=tuple(self.started - job.queued_at for job in self.batch),
            engine_s=self.finished - self.started,
        )


def settle(waits: Sequence[Wait], failure: Failure) -> None:
    """End the waits that have not ended yet. On their own event loop only."""
    for wait in waits:
        if wait.done():
            continue
        if failure is None:
            wait.set_result(None)
        else:
            wait.set_exception(failure())


def settle_from_afar(waits: Iterable[Wait], failure: Failure) -> None:
    """End waits from any thread, waking each event loop once."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Wait]] = {}
    for wait in waits:
        by_loop.setdefault(wait.get_loop(), []).append(wait)
    for loop, group in by_loop.items():
        # A closed loop has nobody left who waits.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, group, failure)
