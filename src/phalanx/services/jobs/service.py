"""Jobs: what is queued by the API, and what became of it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple, TypeVar

import msgspec

from phalanx.contract.jobs import (
    CreateJobRequest,
    CreateJobResponse,
    JobError,
    JobProgress,
    JobRequest,
    JobStage,
    JobView,
    ListJobsRequest,
    ListJobsResponse,
)
from phalanx.contract.keys import Scope
from phalanx.errors import Forbidden, IdempotencyMismatch, InvalidRequest, NotFound
from phalanx.ports import Clock
from phalanx.ports.jobs import JobQueue, JobRecord, NewJob
from phalanx.services.jobs.fields import renamed
from phalanx.services.jobs.tokens import JobTokens
from phalanx.services.jobs.webhooks import Webhooks
from phalanx.services.ticket import Caller, Task, Ticket

T = TypeVar("T")

LOOK_S = 1.0
"""Between two looks at a job that is followed, in seconds, should nobody say that it has changed."""
ENDED = ("completed", "failed")
_NAMESPACE = uuid.UUID("0e6f3a52-3d0c-5b0f-9c61-9a5d6a2b7c41")


class JobKind(NamedTuple):
    """What an operation asks of those who queue it: its request's struct, a scope, and what its fields are called besides."""

    request: type[msgspec.Struct]
    scope: Scope | None
    names: Mapping[str, str] = {}


class Told:
    """Which stages of a job's latest attempt one who follows it was told of."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._count = 0

    def missed(self, view: JobView) -> list[JobView]:
        """Return the job as it was at stages that were not told, but for the one that it is at; all count as told then."""
        if view.progress is None or not view.progress.stages:
            return []
        stages = view.progress.stages
        if stages[0].at != self._began:
            # Another attempt's.
            self._began, self._count = stages[0].at, 0
        first, self._count = self._count, len(stages)
        upto = len(stages) - 1 if view.state == "active" else len(stages)
        return [_at_stage(view, stages[: number + 1]) for number in range(first, upto)]


class JobService:
    """Queues operations and tells what became of them, to the organisation of who queued them."""

    def __init__(
        self,
        queue: JobQueue,
        queues: Sequence[str],
        tokens: JobTokens,
        kinds: Callable[[], Mapping[str, JobKind]],
        webhooks: Webhooks,
        clock: Clock,
        new_id: Callable[[], str],
    ) -> None:
        """`queues` are the names of those that may be asked for; `kinds` returns the operations that take jobs."""
        self._queue = queue
        self._queues = queues
        self._tokens = tokens
        self._kinds = kinds
        self._webhooks = webhooks
        self._clock = clock
        self._new_id = new_id

    async def create(self, ticket: Ticket, request: CreateJobRequest) -> CreateJobResponse:
        """Queue an operation.

        Raises `InvalidRequest` for a request that the operation would refuse, `NotFound` for an operation that takes no
        jobs, `Forbidden` without its scope, `IdempotencyMismatch` for another job under the same key, and `Unavailable`.
        """
        caller = ticket.caller
        kind = self._kinds().get(request.operation)
        if kind is None:
            raise NotFound(f"there is no operation {request.operation!r} that takes jobs", param="operation")
        if caller.is_operator or not (caller.key_id or caller.session_id):
            raise Forbidden("jobs run as who queues them, so a key or a session is needed")
        if kind.scope is not None and kind.scope not in caller.scopes:
            raise Forbidden(f"this credential lacks the scope {kind.scope!r}, which {request.operation!r} needs")
        if request.queue is not None and request.queue not in self._queues:
            raise InvalidRequest(
                f"there is no queue {request.queue!r}; there is {', '.join(self._queues)}", param="queue"
            )
        if request.webhook is not None:
            self._webhooks.check(request.webhook)
        request = msgspec.structs.replace(request, request=renamed(request.request, kind.names))
        try:
            msgspec.convert(request.request, kind.request)
        except msgspec.ValidationError as error:
            raise InvalidRequest(f"the request of {request.operation!r}: {error}", param="request") from None
        job = self._job(caller, request)
        if not await self._queue.add(job):
            await self._require_same(job)
        return CreateJobResponse(id=job.id)

    async def get(self, ticket: Ticket, request: JobRequest) -> JobView:
        """Return a job of the caller's organisation. Raises `NotFound` and `Unavailable`."""
        return _view(await self._find(ticket, request.id))

    async def list(self, ticket: Ticket, request: ListJobsRequest) -> ListJobsResponse:
        """Return the jobs of the caller's organisation. Raises `Unavailable`."""
        found = await self._queue.list(ticket.caller.organisation, after=request.after, limit=request.limit + 1)
        page = found[: request.limit]
        rest = page[-1].id if len(found) > request.limit else ""
        return ListJobsResponse(jobs=[_view(one) for one in page], next=rest)

    async def cancel(self, ticket: Ticket, request: JobRequest) -> JobView:
        """Forget a job that does not run, and return it as it was. Raises `NotFound`, `Conflict` and `Unavailable`."""
        found = await self._queue.remove(ticket.caller.organisation, request.id)
        if found is None:
            raise NotFound("there is no such job")
        return _view(found)

    async def events(self, ticket: Ticket, request: JobRequest) -> AsyncIterator[JobView]:
        """Yield a job now and whenever its state, attempts or progress change, until it has ended. Raises as `get` does.

        Each stage is yielded, in order, those too that were over before it was looked at.
        """
        before, told = None, Told()
        with self._queue.watch(await self._find(ticket, request.id)) as changed:
            while True:
                changed.clear()
                found = await self._find(ticket, request.id)
                now = (found.state, found.failures, found.progress)
                if now != before:
                    before, view = now, _view(found)
                    for earlier in told.missed(view):
                        yield earlier
                    yield view
                if found.state in ENDED:
                    return
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await changed.wait()

    def _job(self, caller: Caller, request: CreateJobRequest) -> NewJob:
        job_id = self._new_id()
        if request.idempotency_key is not None:
            who = caller.user_id or caller.key_id
            words = (caller.organisation, who, request.idempotency_key)
            job_id = str(uuid.uuid5(_NAMESPACE, "\x1f".join(words)))
        delay_s = request.delay_ms / 1e3
        token = self._tokens.sign(
            caller, Task(job_id, request.operation), delay_s=delay_s, webhook=request.webhook or ""
        )
        return NewJob(
            job_id, caller.organisation, request.operation, msgspec.json.encode(request.request), str(token),
            request.queue or self._queues[0], self._clock.now(), delay_s, request.priority, request.attempts or 0,
        )  # fmt: skip

    async def _require_same(self, job: NewJob) -> None:
        known = await self._queue.find(job.organisation, job.id)
        if known is None:
            return
        same = known.operation == job.operation
        if not same or msgspec.json.decode(known.request) != msgspec.json.decode(job.request):
            raise IdempotencyMismatch("the idempotency_key was used for another job")

    async def _find(self, ticket: Ticket, job_id: str) -> JobRecord:
        found = await self._queue.find(ticket.caller.organisation, job_id)
        if found is None:
            raise NotFound("there is no such job")
        return found


def _at_stage(view: JobView, stages: list[JobStage]) -> JobView:
    """Return a job as it was when the last of some stages began."""
    latest = stages[-1]
    progress = JobProgress(fraction=latest.fraction, stage=latest.stage, stages=stages)
    return msgspec.structs.replace(view, state="active", ended_at=None, result=None, error=None, progress=progress)


def _read(text: bytes | str, kind: type[T]) -> T | None:
    """Return what JSON of a queue says, which another worker of it may have written; None if it is not as ours is."""
    try:
        return msgspec.json.decode(text, type=kind) if text else None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _view(job: JobRecord) -> JobView:
    error = None
    if job.reason and job.state != "completed":
        error = _read(job.reason, JobError) or JobError(code="internal", detail=job.reason[:1000])
    return JobView(
        id=job.id, operation=job.operation, queue=job.queue, state=job.state, attempts=job.failures,
        created_at=job.made_at, started_at=job.started_at, ended_at=job.ended_at,
        result=_read(job.result, object), error=error, progress=_read(job.progress, JobProgress),
    )  # fmt: skip
