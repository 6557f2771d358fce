"""One thread that owns one engine: callers await their items, the thread computes them batch by batch.

There is no waiting for a batch: an idle engine takes what is there, a busy one finds what queued meanwhile.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from enum import Enum
from queue import SimpleQueue
from typing import Generic

import structlog

from phalanx.engines.batcher import Batcher
from phalanx.engines.meter import BatchFacts, Meter, RunnerStats
from phalanx.engines.waiting import Computed, Job, Request, Wait, settle, settle_from_afar
from phalanx.errors import DeadlineExceeded, Internal, Overloaded, PhalanxError, Unavailable
from phalanx.ports import Engine, Finished, Submission
from phalanx.ports.engines import P, R
from phalanx.telemetry import Log

__all__ = ["BatchFacts", "Runner", "RunnerStats"]

CERTAINTY = 2 / 3
"""The part of its time in which a call must be done by prediction: others come whose turn is sooner, and a rate is an average."""

JOIN_S = 1.0
"""Seconds that `stop` gives the batch under way when the drain time is over; a batch takes about 0.04."""


class _State(Enum):
    NEW = "has not started"
    RUNNING = "is running"
    DRAINING = "is stopping"
    STOPPED = "has stopped"


class Runner(Generic[P, R]):
    """Feeds one engine from any number of callers.

    `token_budget` bounds a batch in padded tokens (items times the longest), `max_items` in items;
    `max_waiting_tokens` bounds the queue (2 s of work at the 31,000 tokens/s of MiniLM on 2 cores). A call
    to the engine that takes longer than `stuck_after_s` makes `is_alive` false. `on_batch` is called on the
    engine thread after each batch and has to be quick. `now` gives monotonic seconds. Failures of the engine
    go to `log`.

    One lock guards the queue, the requests and the counts; it is never held while the engine computes.
    """

    def __init__(
        self,
        engine: Engine[P, R],
        *,
        name: str,
        token_budget: int = 1024,
        max_items: int = 256,
        max_waiting_tokens: int = 65_536,
        stuck_after_s: float = 30.0,
        on_batch: Callable[[BatchFacts], None] | None = None,
        now: Callable[[], float] = time.monotonic,
        log: Log | None = None,
    ) -> None:
        self._engine = engine
        self._name = name
        self._max_waiting_tokens = max_waiting_tokens
        self._stuck_after_s = stuck_after_s
        self._on_batch = on_batch
        self._now = now
        self._log: Log = structlog.get_logger("phalanx") if log is None else log
        self._lock = threading.Lock()
        self._batcher: Batcher[Job[P]] = Batcher(
            token_budget=token_budget, max_items=max_items, max_waiting_tokens=max_waiting_tokens
        )
        self._in_flight: dict[Hashable, Job[P]] = {}
        self._running: list[Job[P]] = []
        self._meter = Meter()
        self._busy_since: float | None = None
        self._state = _State.NEW
        self._idle = False
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name=f"engine-{name}", daemon=True)

    def start(self) -> None:
        """Start the engine thread; a second time does nothing. Raises `RuntimeError` after `stop`."""
        with self._lock:
            if self._state is _State.RUNNING:
                return
            if self._state is not _State.NEW:
                raise RuntimeError(f"the runner of {self._name!r} {self._state.value}; make a new one")
            self._thread.start()
            self._state = _State.RUNNING

    async def submit(
        self, submissions: Sequence[Submission[P]], *, tenant: str, deadline: float
    ) -> list[Finished[R] | PhalanxError]:
        """Compute the items and return, in their order, each one's result or the error that is its own.

        All are admitted or none. Items of one tenant with an equal identity, here or in another call that is
        under way, are computed once and share one result object. `deadline` is in monotonic seconds
        (`math.inf`: none). Cancelling the call, like its deadline, drops its items unless another call waits
        for the same ones.

        Raises `Overloaded` when the queue has no room, or so much is ahead that it would come too late; `DeadlineExceeded` when not all was computed in time,
        `Unavailable` before `start` and from `stop` on.
        """
        if not submissions:
            return []
        now = self._now()
        if deadline <= now:
            raise DeadlineExceeded(f"the deadline had passed by {now - deadline:.3f} s when the call was queued")
        request = Request(len(submissions), now)
        timer = None
        if deadline < math.inf:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(deadline - now, settle, [request.wait], _too_late)
        try:
            self._enqueue(request, submissions, tenant, deadline)
            await request.wait
        finally:
            if timer is not None:
                timer.cancel()
            if request.left:
                self._abandon(request)
        return request.results

    async def stop(self, drain_s: float) -> None:
        """Refuse new calls, finish what waits for up to `drain_s` seconds, fail the rest with `Unavailable`.

        Returns when the thread has ended, or a second after the drain time if the engine does not come back.
        """
        with self._lock:
            if self._state is _State.NEW:
                self._state = _State.STOPPED
            if self._state is _State.STOPPED and not self._thread.is_alive():
                return
            if self._state is _State.RUNNING:
                self._state = _State.DRAINING
        self._wake.put(None)
        await asyncio.to_thread(self._thread.join, drain_s)
        if self._thread.is_alive():
            self._end()
            await asyncio.to_thread(self._thread.join, JOIN_S)
        if self._thread.is_alive():
            self._log.warning("engine.left_behind", model=self._name, busy_since=self._busy_since)

    def stats(self) -> RunnerStats:
        """Return the queue's state and the counts."""
        with self._lock:
            meter = self._meter
            return RunnerStats(
                waiting_items=self._batcher.waiting_items,
                waiting_tokens=self._batcher.waiting_tokens,
                running_items=len(self._running),
                batches=meter.batches,
                items=meter.items,
                tokens=meter.tokens,
                padded_tokens=meter.padded_tokens,
                tokens_per_s=meter.tokens_per_s,
                last_batch_at=meter.last_batch_at,
                busy_since=self._busy_since,
            )

    def is_alive(self, now: float) -> bool:
        """Whether the thread lives and the engine, if busy, is not stuck at `now` (monotonic seconds)."""
        busy_since = self._busy_since
        return self._thread.is_alive() and (busy_since is None or now - busy_since <= self._stuck_after_s)

    def _enqueue(self, request: Request, submissions: Sequence[Submission[P]], tenant: str, deadline: float) -> None:
        """Queue what is not under way already, all or nothing, and wake the engine thread if it sleeps."""
        fresh: list[Job[P]] = []
        with self._lock:
            if self._state is not _State.RUNNING:
                raise Unavailable(f"the engine of {self._name!r} {self._state.value}", retry_after_s=1)
            shared: dict[Hashable, Job[P]] = {}
            for item, identity in submissions:
                key = None if identity is None else (tenant, identity)
                job = None if key is None else self._in_flight.get(key) or shared.get(key)
                if job is None:
                    job = Job(item, key, tenant=tenant, deadline=deadline, now=request.submitted_at)
                    fresh.append(job)
                    if key is not None:
                        shared[key] = job
                request.jobs.append(job)
            self._admit(tenant, sum(job.cost for job in fresh), deadline - request.submitted_at)
            self._in_flight.update(shared)
            for job in fresh:
                self._batcher.add(job)
            for index, job in enumerate(request.jobs):
                job.waiters.setdefault(request, []).append(index)
                job.deadline = max(job.deadline, deadline)
            must_wake, self._idle = self._idle, False
        if must_wake:
            self._wake.put(None)

    def _admit(self, tenant: str, tokens: int, left_s: float) -> None:
        """Raise `Overloaded`, with the seconds that the queue needs to drain, when `tokens` find no room or come too late.

        What finds nobody waiting is never too late: no other time would be better.
        """
        waiting = self._batcher.waiting_tokens
        rate = self._meter.tokens_per_s
        in_time = CERTAINTY * left_s * rate
        is_late = bool(waiting and rate) and waiting + tokens > in_time < self._batcher.until(tenant, tokens)
        if not tokens or (not is_late and self._batcher.admits(tenant, tokens)):
            return
        seconds = min(60, max(1, math.ceil(waiting / rate))) if rate else 1
        more = f"{tokens} more of this caller"
        why = f"{more} would be computed too late" if is_late else f"there is no room for {more}"
        raise Overloaded(
            f"the queue of {self._name!r} holds {waiting} of {self._max_waiting_tokens} tokens, and {why}; "
            f"try again in {seconds} s",
            retry_after_s=seconds,
        )

    def _abandon(self, request: Request) -> None:
        """Drop what was to be computed for this request alone."""
        with self._lock:
            for job in request.jobs:
                if job.waiters.pop(request, None) is not None and not job.waiters and job.queued:
                    self._batcher.discard(job)
                    self._forget(job)

    def _forget(self, job: Job[P]) -> None:
        job.queued = False
        if self._in_flight.get(job.key) is job:
            del self._in_flight[job.key]

    def _serve(self) -> None:
        """Compute batches until stopped: the engine thread."""
        try:
            computed: Computed[P, R] | None = None
            while (batch := self._exchange(computed)) is not None:
                computed = self._compute(batch) if batch else None
                if not batch:
                    self._wake.get()
        except Exception:
            self._log.error("engine.thread_failed", model=self._name, exc_info=True)
        finally:
            self._end()
            with self._lock:
                self._release()

    def _exchange(self, computed: Computed[P, R] | None) -> list[Job[P]] | None:
        """Hand over what was computed and take the next batch: [] when nothing waits, None at the end.

        Both happen before the event loop is woken, so that it then finds the interpreter free: the engine
        thread goes straight into the engine or to sleep.
        """
        facts = computed.facts() if computed else None
        with self._lock:
            over = self._record(computed, facts) if computed and facts else []
            late, batch = self._take()
        settle_from_afar(over, None)
        settle_from_afar(late, _too_late)
        if facts and self._on_batch:
            self._report(self._on_batch, facts)
        return batch

    def _take(self) -> tuple[set[Wait], list[Job[P]] | None]:
        """Make the next batch the running one. Returns also the waits whose deadline has passed."""
        if self._state is _State.STOPPED:
            return set(), None
        batch, expired = self._batcher.take(self._now())
        # The timers of these requests end them too, but for a late event loop.
        late = {request.wait for job in expired for request in job.waiters}
        for job in expired:
            self._forget(job)
        for job in batch:
            job.queued = False
        self._running = batch
        self._idle = not batch
        is_over = not batch and self._state is _State.DRAINING
        return late, None if is_over else batch

    def _compute(self, batch: list[Job[P]]) -> Computed[P, R]:
        """Run the batch; if that fails, each item alone, so that one bad item does not hurt the others."""
        started = self._now()
        outcomes: Sequence[R | PhalanxError]
        try:
            outcomes = self._run(batch)
        except Exception as error:
            self._log.error("engine.batch_failed", model=self._name, items=len(batch), exc_info=True)
            alone = len(batch) == 1
            outcomes = [_shown(error)] if alone else [self._run_alone(job) for job in batch]
        return Computed(batch, outcomes, started, self._now())

    def _run(self, batch: Sequence[Job[P]]) -> Sequence[R]:
        self._busy_since = self._now()
        results = self._engine.run([job.item for job in batch])
        if len(results) != len(batch):
            raise ValueError(f"the engine returned {len(results)} results for {len(batch)} items")
        return results

    def _run_alone(self, job: Job[P]) -> R | PhalanxError:
        if not self._is_wanted(job):
            return Internal()
        try:
            return self._run([job])[0]
        except Exception as error:
            self._log.error("engine.item_failed", model=self._name, tokens=job.length, error=repr(error))
            return _shown(error)

    def _is_wanted(self, job: Job[P]) -> bool:
        """Whether somebody waits for a job under way; if not, nobody joins it any more."""
        with self._lock:
            if not job.waiters:
                self._forget(job)
            return bool(job.waiters)

    def _record(self, computed: Computed[P, R], facts: BatchFacts) -> list[Wait]:
        """Put the outcomes where they belong and return the waits that are over."""
        self._release()
        over: list[Wait] = []
        for job, outcome in zip(computed.batch, computed.outcomes, strict=True):
            self._forget(job)
            over += [request.wait for request in job.finish(outcome, computed.started, computed.finished)]
        self._meter.add(facts, computed.finished)
        return over

    def _release(self) -> None:
        """Note that no batch is under way."""
        self._running = []
        self._busy_since = None

    def _report(self, on_batch: Callable[[BatchFacts], None], facts: BatchFacts) -> None:
        try:
            on_batch(facts)
        except Exception:
            self._log.error("engine.report_failed", model=self._name, exc_info=True)

    def _end(self) -> None:
        """Let nothing more in and fail everyone who still waits."""
        with self._lock:
            self._state = _State.STOPPED
            jobs = [*self._batcher.clear(), *self._running]
            left = {request.wait for job in jobs for request in job.waiters}
            for job in jobs:
                self._forget(job)
        settle_from_afar(left, self._stopped)

    def _stopped(self) -> PhalanxError:
        return Unavailable(f"the engine of {self._name!r} stopped before the call was computed", retry_after_s=1)


def _too_late() -> PhalanxError:
    return DeadlineExceeded("the call was not computed before its deadline; send less at once or allow more time")


def _shown(error: Exception) -> PhalanxError:
    """Return what the caller sees of a failure: errors of the table as they are, of others nothing."""
    return error if isinstance(error, PhalanxError) else Internal()
