"""The queue of jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from phalanx.contract.jobs import JobState


class NewJob(NamedTuple):
    """A job to queue. `request` is JSON, `token` says who queued it; times in epoch seconds; `attempts` 0: as set."""

    id: str
    organisation: str
    operation: str
    request: bytes
    token: str
    queue: str
    made_at: float
    delay_s: float = 0.0
    priority: int = 0
    attempts: int = 0


class JobRecord(NamedTuple):
    """A job as the queue has it. `result`, `progress` and `reason` (of `{"code", "detail"}`) are JSON, empty if there is none."""

    id: str
    organisation: str
    operation: str
    queue: str
    state: JobState
    request: bytes
    made_at: float
    failures: int = 0
    started_at: float | None = None
    ended_at: float | None = None
    result: bytes = b""
    reason: str = ""
    progress: bytes = b""


class ClaimedJob(NamedTuple):
    """A job that is to be run here. `data` is its JSON with the token; `deaths` counts the times it died alone.

    `stalled` says that whoever had it before was not heard of again; `billed_at` is when it first ran.
    """

    id: str
    operation: str
    queue: str
    data: bytes
    failures: int
    attempts: int
    stalled: int
    deaths: int
    billed_at: float


class JobQueue(Protocol):
    """Jobs by organisation. Down: `unavailable`, nothing is half queued."""

    async def add(self, job: NewJob) -> bool:
        """Queue a job; False, and nothing changes, when there is one of its id."""
        ...

    async def find(self, organisation: str, job_id: str) -> JobRecord | None:
        """Return an organisation's job, or None."""
        ...

    async def list(self, organisation: str, *, after: str | None = None, limit: int = 100) -> list[JobRecord]:
        """Return an organisation's jobs, newest first, from the one behind the id `after`, results left out."""
        ...

    async def remove(self, organisation: str, job_id: str) -> JobRecord | None:
        """Forget a job and return it as it was; None when there is none. Raises `Conflict` for one that runs."""
        ...

    def watch(self, job: JobRecord) -> AbstractContextManager[asyncio.Event]:
        """Have an event set whenever a job may have changed, from now on; whoever waits for it clears it.

        It may come without a change, and while the store is away not at all: look now and then besides.
        """
        ...


class OwnJobs(JobQueue, Protocol):
    """A `JobQueue` whose jobs are run by the process that keeps it. Times are epoch seconds."""

    async def claim(self, limit: int, *, now: float, lease_s: float) -> Sequence[ClaimedJob]:
        """Take up to `limit` jobs that are due, and those whose lease has run out."""
        ...

    async def next_due(self) -> float | None:
        """Return when there will be something to claim (epoch seconds), if nothing changes; None when nothing waits."""
        ...

    def call_when_due(self, wake: Callable[[], None]) -> AbstractContextManager[None]:
        """Have `wake` called whenever a job becomes due by what is done here, such as queueing it."""
        ...

    async def renew(self, job_ids: Sequence[str], *, until: float) -> None:
        """Keep jobs for longer."""
        ...

    async def note_alone(self, job_id: str) -> None:
        """Count that a job begins to run alone; what does not end then ends the process."""
        ...

    async def note_progress(self, job_id: str, progress: bytes) -> None:
        """Keep how far a job that runs has come, as JSON."""
        ...

    async def complete(self, job_id: str, result: bytes, *, at: float) -> None:
        """Keep what a job has brought."""
        ...

    async def fail(self, job_id: str, reason: str, *, at: float) -> None:
        """Keep why a job has failed."""
        ...

    async def put_back(self, job_id: str, *, due_at: float, reason: str = "", failed: bool = False) -> None:
        """Have a job run later; `failed` counts as an attempt."""
        ...

    async def expire(self, *, before: float) -> int:
        """Forget jobs that ended before an instant, and return how many."""
        ...
