"""Runs the jobs that are in this process's own database: where there is no Redis."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import msgspec

from phalanx.edges.queue.app import Delivery, Done, Failed, Outcome, QueueEdge, event_id
from phalanx.edges.queue.progress import Progress
from phalanx.edges.queue.retrying import MAX_DEATHS_ALONE, backoff_s
from phalanx.edges.queue.turnstile import Turnstile
from phalanx.errors import Internal, JobQuarantined, PhalanxError
from phalanx.ports import Clock
from phalanx.ports.jobs import ClaimedJob, OwnJobs
from phalanx.telemetry import Log, Metrics

LEASE_S = 15.0
RENEW_S = 5.0
LOOK_S, LEAST_S = 1.0, 0.01
"""Between two looks for jobs that are due, at most and at least, in seconds. Those queued in this process are seen at once."""
WAIT_S = 1.0
KEPT_S = 7 * 86_400.0
TIDY_S = 3600.0


class OwnWorker:
    """Runs `concurrency` jobs at once. `run` it as a task; cancelled, it gives back what is under way."""

    def __init__(
        self,
        edge: QueueEdge,
        jobs: OwnJobs,
        *,
        clock: Clock,
        concurrency: int,
        attempts: int,
        log: Log,
        metrics: Metrics,
    ) -> None:
        self._edge, self._jobs, self._clock, self._log = edge, jobs, clock, log
        self._concurrency, self._attempts = concurrency, attempts
        self._turnstile = Turnstile()
        self._told = {
            name: metrics.counter("phalanx_jobs", name) for name in ("completed", "failed", "retried", "delayed")
        }
        self._running: dict[str, asyncio.Task[None]] = {}
        self._failing = False
        self._look = asyncio.Event()

    async def run(self) -> None:
        """Run jobs until cancelled."""
        with self._jobs.call_when_due(self._look.set):
            await self._run_all()

    async def _run_all(self) -> None:
        beside = [asyncio.create_task(work()) for work in (self._renew, self._tidy)]
        try:
            while True:
                self._look.clear()
                room = self._concurrency - len(self._running)
                claimed = await self._claim(room) if room else []
                for job in claimed:
                    task = self._running[job.id] = asyncio.create_task(self._one(job))
                    task.add_done_callback(functools.partial(self._forget, job.id))
                if not claimed:
                    await self._wait(due_too=room > 0)
        finally:
            under_way = list(self._running.values())
            for task in (*beside, *under_way):
                task.cancel()
            await asyncio.gather(*beside, *under_way, return_exceptions=True)

    def _forget(self, job_id: str, _: object) -> None:
        self._running.pop(job_id, None)
        self._look.set()

    async def _wait(self, *, due_too: bool) -> None:
        """Wait until there may be something to do: a job queued, one of ours ended, or, with `due_too`, one due by now."""
        wait_s = LOOK_S
        try:
            due_at = await self._jobs.next_due() if due_too else None
        except PhalanxError as error:
            self._note(error)
            due_at = None
        if due_at is not None:
            wait_s = min(max(due_at - self._clock.now(), LEAST_S), LOOK_S)
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._look.wait()

    async def _claim(self, room: int) -> list[ClaimedJob]:
        try:
            found = await self._jobs.claim(room, now=self._clock.now(), lease_s=LEASE_S)
        except PhalanxError as error:
            self._note(error)
            await asyncio.sleep(WAIT_S)
            return []
        self._failing = False
        return [job for job in found if job.id not in self._running]

    async def _one(self, job: ClaimedJob) -> None:
        outcome: Outcome | None = None
        try:
            outcome = await self._outcome(job)
        except Exception as bug:
            self._log.error("bug", job=job.id, exc_info=bug)
            outcome = Failed(Internal(), again=True)
        finally:
            # Cancelled, the job goes back; what is done is told in any case.
            await asyncio.shield(self._patiently(lambda: self._tell(job, outcome)))

    def _delivery(self, job: ClaimedJob) -> Delivery:
        made_ms = round(job.billed_at * 1000)
        return Delivery(
            job.id, job.queue, job.operation, job.data, event_id(job.queue, job.id, made_ms), "",
            job.failures + job.stalled + 1,
        )  # fmt: skip

    async def _outcome(self, job: ClaimedJob) -> Outcome:
        delivery = self._delivery(job)
        if not job.stalled:
            async with self._turnstile.among():
                return await self._run(job, delivery)
        if job.deaths >= MAX_DEATHS_ALONE:
            said = f"the process that ran the job died {job.deaths} times while it ran nothing else"
            return self._edge.refuse(delivery, JobQuarantined(said))
        async with self._turnstile.alone():
            await self._patiently(lambda: self._jobs.note_alone(job.id))
            return await self._run(job, delivery)

    async def _run(self, job: ClaimedJob, delivery: Delivery) -> Outcome:
        progress = Progress(lambda new: self._jobs.note_progress(job.id, msgspec.json.encode(new[-1])), self._unheard)
        try:
            return await self._edge.run(delivery, progress.note)
        finally:
            await progress.end()

    async def _tell(self, job: ClaimedJob, outcome: Outcome | None) -> None:
        delivery = self._delivery(job)
        now = self._clock.now()
        if isinstance(outcome, Done):
            await self._edge.announce(delivery, outcome)
            await self._jobs.complete(job.id, outcome.result, at=now)
            self._told["completed"].inc()
        elif outcome is None or outcome.is_limit:
            await self._jobs.put_back(job.id, due_at=now + (outcome.after_s if outcome else 0.0))
            self._told["delayed"].inc()
        elif outcome.again and job.failures + 1 < (job.attempts or self._attempts):
            due_at = now + max(backoff_s(job.failures), outcome.after_s)
            await self._jobs.put_back(job.id, due_at=due_at, reason=outcome.reason, failed=True)
            self._told["retried"].inc()
        else:
            await self._edge.announce(delivery, outcome)
            await self._jobs.fail(job.id, outcome.reason, at=now)
            self._told["failed"].inc()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            if self._running:
                ids = list(self._running)
                await self._patiently(lambda ids=ids: self._jobs.renew(ids, until=self._clock.now() + LEASE_S))  # type: ignore[misc]

    async def _tidy(self) -> None:
        while True:
            await self._patiently(lambda: self._jobs.expire(before=self._clock.now() - KEPT_S))
            await asyncio.sleep(TIDY_S)

    async def _patiently(self, work: Callable[[], Awaitable[Any]]) -> Any:
        while True:
            try:
                return await work()
            except PhalanxError as error:
                self._note(error)
                await asyncio.sleep(WAIT_S)

    def _unheard(self, error: Exception) -> None:
        self._log.debug("the progress of a job was not noted", error=type(error).__name__)

    def _note(self, error: PhalanxError) -> None:
        if not self._failing:
            self._failing = True
            self._log.warning("jobs cannot be read or written", error=error.detail)
