"""Takes jobs from one BullMQ queue and says what became of them.

BullMQ's own worker does the fetching, the locks and the recovery of what stalled; here is what it does otherwise. A job
that is done is never told as failed: its completion is told again until it is heard. What does not decode fails instead
of staying with us for ever. A limit of the caller's delays a job and is no attempt.

A job that stalled was under way when a worker died, mostly of another job's doing: BullMQ would count that against it, and
give it up. Here it runs again, alone, and only deaths while it was alone count.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import bullmq
import msgspec

from phalanx.contract.jobs import JobProgress
from phalanx.edges.queue.app import Delivery, Done, Failed, Outcome, QueueEdge, event_id
from phalanx.edges.queue.progress import Progress
from phalanx.edges.queue.readable import readable
from phalanx.edges.queue.retrying import MAX_DEATHS_ALONE, backoff_s
from phalanx.edges.queue.turnstile import Turnstile
from phalanx.errors import Internal, InvalidRequest, JobQuarantined, Unavailable
from phalanx.settings import Secret
from phalanx.settings.queues import QueueSpec
from phalanx.telemetry import Log, Metrics

LOCK_MS, STALLED_CHECK_MS = 15_000, 5_000
"""How long a job stays with a worker that is not heard of, and how often is looked for such, in milliseconds."""
NEVER = 2**31
"""BullMQ's own limit of stalls, which counts those that were not the job's fault, is out of the way."""
RETRY_MS = 200
MINE_S = 1.0
OWN_TIME_MS = 3_600_000
"""A job that is older when it first runs, or from the future, is billed on the day on which it runs."""
ALONE, BILLED_AT = "phx:alone", "phx:at"
"""Fields of ours in BullMQ's hash of a job, gone with it: times it was run alone, and the instant of its event."""
ANSWER_S, BLOCK_S = 10.0, 20.0
GIVING_BACK_S = 2.0
TOLD = ("completed", "failed", "retried", "delayed", "lost")


class QueueWorker(bullmq.Worker):  # type: ignore[misc]
    """The worker of one queue. `concurrency` jobs run at once; `attempts` is for jobs whose producer says nothing.

    `run` it as a task; `stop` lets what is under way finish for some seconds and gives the rest back.
    """

    def __init__(
        self,
        edge: QueueEdge,
        spec: QueueSpec,
        url: Secret,
        *,
        turnstile: Turnstile,
        concurrency: int,
        attempts: int,
        log: Log,
        metrics: Metrics,
        lock_ms: int = LOCK_MS,
        stalled_check_ms: int = STALLED_CHECK_MS,
    ) -> None:
        options = {
            "connection": str(url), "prefix": spec.prefix, "autorun": False, "concurrency": concurrency,
            "lockDuration": lock_ms, "stalledInterval": stalled_check_ms, "maxStalledCount": NEVER,
            "runRetryDelay": RETRY_MS,
        }  # fmt: skip
        super().__init__(spec.name, _unused, options)
        self._edge = edge
        self._spec = spec
        self._place = f"{spec.prefix}:{spec.name}"
        self._turnstile = turnstile
        self._attempts = attempts
        self._log = log
        self._told = {name: metrics.counter("phalanx_jobs", name) for name in TOLD}
        self._mine: dict[str, asyncio.Task[Any]] = {}
        self._failing = False
        for connection, timeout_s in ((self.client, ANSWER_S), (self.bclient, BLOCK_S)):
            known = connection.connection_pool.connection_kwargs
            known |= {"socket_timeout": timeout_s, "socket_connect_timeout": ANSWER_S, "socket_keepalive": True}
            # Bytes that are no UTF-8 must not keep a job from being told as failed.
            known["encoding_errors"] = "surrogateescape"
            known.pop("retry", None)
            known["retry_on_error"] = []
        self.on("error", self._note)
        self.on("stalled", self._note_stalled)

    async def stop(self, *, within_s: float) -> None:
        """Take no more, let what is under way finish, and give back what has not in time."""
        # Paused, BullMQ's worker goes on renewing locks; closing, it does not.
        await self.pause(do_not_wait_active=True)
        if self.processing:
            await asyncio.wait(set(self.processing), timeout=within_s)
        self.give_back()
        if self.processing:
            await asyncio.wait(set(self.processing), timeout=GIVING_BACK_S)
        await self.close(force=True)

    def give_back(self) -> None:
        """Cut short what is under way: it goes back into the queue."""
        for task in list(self._mine.values()):
            task.cancel()

    async def getNextJob(self, token: str) -> Any:  # noqa: N802 - BullMQ's name
        """Fetch a job; one that comes when no more are wanted goes back."""
        job = await super().getNextJob(token)
        if job is not None and (self.paused or self.closing):
            await self._tell(job, token, None)
            return None
        return job

    async def moveToActive(self, token: str) -> Any:  # noqa: N802 - BullMQ's name
        """Fetch a job, one too that BullMQ's script stumbled over."""
        try:
            return await super().moveToActive(token)
        except Exception as error:
            raw, job_id = await self._stumbled_over(error, token)
            return await self.nextJobFromJobData(raw, job_id, token=token)

    async def _stumbled_over(self, error: Exception, token: str, done: str = "") -> tuple[dict[str, str], str]:
        """Return what Redis has of the job, and its id, that was handed to us by a script which then failed; or raise its error.

        It counts the attempt up last: where that is no number, the job is active and locked, and nobody was told.
        """
        active = [] if self.isConnectionError(error) else await self.client.lrange(self.backend.toKey("active"), 0, -1)
        for job_id in active:
            key = self.backend.toKey(job_id)
            if job_id != done and await self.client.get(f"{key}:lock") == token:
                raw = await self.client.hgetall(key)
                return raw, job_id
        raise error

    async def nextJobFromJobData(  # noqa: N802 - BullMQ's name
        self, job_data: Any = None, job_id: Any = None, limit_until: int = 0, delay_until: int = 0, token: Any = None
    ) -> Any:
        """Make a job of what Redis has of it, without decoding the data; that is for the row."""
        if not job_data:
            return await super().nextJobFromJobData(job_data, job_id, limit_until, delay_until, token)
        found = readable(job_data, (ALONE, BILLED_AT))
        job = await super().nextJobFromJobData(found.fields, job_id, limit_until, delay_until, token)
        job.phalanx_found, job.phalanx_delivery = found, None
        return job

    async def processJob(self, job: Any, token: str) -> None:  # noqa: N802 - BullMQ's name
        """Run a job and tell what became of it, and then those that are handed out in return."""
        while job is not None:
            job = await self._process(job, token)

    async def _process(self, job: Any, token: str) -> Any:
        """Run a job and tell what became of it; returns the next, if telling has brought one."""
        for option in ("removeOnComplete", "removeOnFail"):
            if option not in job.opts and option in self.opts:
                job.opts[option] = self.opts[option]
        self.jobs.add((job, token))
        self.lockManager.track_job(job.id, token, int(time.time() * 1000), should_create_controller=False)
        is_first = job.id not in self._mine
        try:
            if not is_first:
                # Its lock was lost while it ran here, and runs still.
                return await self._tell(job, token, None, MINE_S)
            running = self._mine[job.id] = asyncio.create_task(self._outcome(job))
            await asyncio.wait({running})
            return await self._tell(job, token, self._result(running))
        finally:
            if is_first:
                self._mine.pop(job.id, None)
            self.jobs.discard((job, token))
            self.lockManager.untrack_job(job.id)

    def _result(self, running: asyncio.Task[Outcome]) -> Outcome | None:
        if running.cancelled():
            return None
        bug = running.exception()
        if bug is None:
            return running.result()
        self._log.error("bug", queue=self._place, exc_info=bug)
        return Failed(Internal(), again=True)

    async def _outcome(self, job: Any) -> Outcome:
        raw, problem, broken, data = job.phalanx_found
        if broken:
            await self._patiently(lambda: self.client.hdel(self.backend.toKey(job.id), *broken))
        delivery = await self._delivery(job, data)
        if problem:
            return self._edge.refuse(delivery, InvalidRequest(problem))
        if job.deferredFailure:
            return self._edge.refuse(delivery, JobQuarantined("another worker gave the job up as stalled too often"))
        if not job.stalledCounter:
            async with self._turnstile.among():
                return await self._run(job, delivery)
        deaths = int(raw.get(ALONE) or 0)
        if deaths >= MAX_DEATHS_ALONE:
            said = f"the process that ran the job died {deaths} times while it ran nothing else"
            return self._edge.refuse(delivery, JobQuarantined(said))
        async with self._turnstile.alone():
            await self._patiently(lambda: self.client.hincrby(self.backend.toKey(job.id), ALONE, 1))
            return await self._run(job, delivery)

    async def _run(self, job: Any, delivery: Delivery) -> Outcome:
        async def tell(new: Sequence[JobProgress]) -> None:
            for one in new:
                await self.backend.updateProgress(job.id, msgspec.to_builtins(one))

        progress = Progress(tell, self._unheard)
        try:
            return await self._edge.run(delivery, progress.note)
        finally:
            await progress.end()

    async def _delivery(self, job: Any, data: bytes) -> Delivery:
        made_ms = await self._billed_at(job)
        delivery = job.phalanx_delivery = Delivery(
            job.id, self._place, str(job.name), data, event_id(self._place, job.id, made_ms),
            self._spec.key_id, job.attemptsMade + job.stalledCounter + 1,
        )  # fmt: skip
        return delivery

    async def _billed_at(self, job: Any) -> int:
        """Return the instant of a job's event: when it was made, or else when it first ran, which is then kept with it."""
        kept = job.phalanx_found.fields.get(BILLED_AT)
        if kept:
            return int(kept)
        now = int(time.time() * 1000)
        made = int(job.timestamp) + int(job.opts.get("delay") or 0)
        if job.attemptsStarted > 1 or 0 <= now - made < OWN_TIME_MS:
            return made
        key = self.backend.toKey(job.id)
        await self._patiently(lambda: self.client.hsetnx(key, BILLED_AT, now))
        return int(await self._patiently(lambda: self.client.hget(key, BILLED_AT)))

    async def _tell(self, job: Any, token: str, outcome: Outcome | None, after_s: float = 0.0) -> Any:
        """Move a job to where its outcome puts it; None gives it back. Until Redis has heard, or the job is not ours.

        Returns the next job, where the same step has fetched one: half of the round trips.
        """
        brought: Any = None
        try:
            what, brought = await self._patiently(lambda: self._move(job, token, outcome, after_s))
        except Exception as error:
            # Another worker has it, or it was removed: by the job's id neither its effects nor its usage count twice.
            what = "lost"
            self._log.warning("a job's end was not told", queue=self._place, job=job.id, error=str(error))
        self._told[what].inc()
        if not brought:
            return None
        raw, job_id, limit_until, delay_until = brought
        following = await self.nextJobFromJobData(raw, job_id, limit_until or 0, delay_until or 0, token)
        if following is not None and (self.paused or self.closing):
            return await self._tell(following, token, None)
        return following

    async def _move(self, job: Any, token: str, outcome: Outcome | None, after_s: float) -> tuple[str, Any]:
        now = round(time.time() * 1000)
        if isinstance(outcome, Done):
            await self._edge.announce(job.phalanx_delivery, outcome)
            keep = job.opts.get("removeOnComplete", False)
            more = not self.paused and not self.closing
            keys, args = self.backend.scripts.moveToCompletedArgs(job, None, keep, token, more)
            # In place of None's JSON; the result is JSON already.
            args[3] = outcome.result.decode()
            try:
                return "completed", await self.backend.scripts.moveToFinished(job.id, keys, args)
            except Exception as error:
                # It fetches the next one when this is done.
                return "completed", (*await self._stumbled_over(error, token, job.id), 0, 0)
        fields: dict[str, Any] = {ALONE: 0} if job.phalanx_found.fields.get(ALONE) or job.stalledCounter else {}
        if outcome is None or outcome.is_limit:
            after_s = max(after_s, outcome.after_s if outcome else 0.0)
            if outcome is not None and not job.stalledCounter and job.attemptsStarted <= 1:
                # Nothing of it was billed yet, and it may be long until it runs.
                fields[BILLED_AT] = now + round(after_s * 1000)
            rest = {"skipAttempt": True, "fieldsToUpdate": fields}
            await self.backend.moveToDelayed(job.id, now, round(after_s * 1000), token, rest)
            return "delayed", None
        tries = int(job.opts.get("attempts") or 0) or self._attempts
        fields["failedReason"] = outcome.reason
        if outcome.again and job.attemptsMade + 1 < tries:
            delay_s = max(backoff_s(job.attemptsMade, job.opts.get("backoff")), outcome.after_s)
            await self.backend.moveToDelayed(job.id, now, round(delay_s * 1000), token, {"fieldsToUpdate": fields})
            return "retried", None
        if job.phalanx_delivery is not None:
            await self._edge.announce(job.phalanx_delivery, outcome)
        keep = job.opts.get("removeOnFail", False)
        await self.backend.moveToFailed(job, outcome.reason, keep, token, False, fields)
        return "failed", None

    async def _patiently(self, work: Any) -> Any:
        """Do something in Redis; while it cannot be reached, again."""
        while True:
            try:
                done = await work()
                self._failing = False
                return done
            except Exception as error:
                if not (isinstance(error, Unavailable) or self.isConnectionError(error)):
                    raise
                self._note(error)
                await asyncio.sleep(RETRY_MS / 1000)

    def _unheard(self, error: Exception) -> None:
        self._log.debug("the progress of a job was not told", queue=self._place, error=type(error).__name__)

    def _note(self, error: Any, *_: Any) -> None:
        """Log that Redis cannot be used, once until it can."""
        if not self._failing:
            self._failing = True
            self._log.warning("the queue cannot be read or written", queue=self._place, error=type(error).__name__)

    def _note_stalled(self, job_id: str) -> None:
        self._log.warning("a job stalled and is run again", queue=self._place, job=job_id)


async def _unused(job: Any, token: str) -> None:
    """Stand where BullMQ wants a processor; `processJob` above has one of its own."""
    raise NotImplementedError(f"the job {job.id} was not to come here. This is a bug.")
