"""Jobs: operations that run later, and what became of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

from phalanx.contract.keys import Id, PageSize

MAX_DELAY_MS = 30 * 86_400_000
MAX_PRIORITY = 2**21
MAX_ATTEMPTS = 100
JobState = Literal["waiting", "delayed", "active", "completed", "failed"]


class CreateJobRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Queue an operation with its request.

    `queue` is one of the installation's, by default its first. Jobs without a priority (0) go first, then 1, 2 and so on.
    `attempts` is how often a job is tried that fails through no fault of its request. A caller has one job for each
    `idempotency_key`. `webhook` is a URL that is told, with a signature, when the job has ended; see `docs/queue.md`.
    """

    operation: Annotated[str, Meta(min_length=1, max_length=128)]
    request: dict[str, Any]
    queue: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    priority: Annotated[int, Meta(ge=0, le=MAX_PRIORITY)] = 0
    delay_ms: Annotated[int, Meta(ge=0, le=MAX_DELAY_MS)] = 0
    attempts: Annotated[int, Meta(ge=1, le=MAX_ATTEMPTS)] | None = None
    idempotency_key: Annotated[str, Meta(min_length=1, max_length=255)] | None = None
    webhook: Annotated[str, Meta(min_length=1, max_length=2048)] | None = None


class CreateJobResponse(Struct, frozen=True, kw_only=True):
    """The job's id."""

    id: str


class JobError(Struct, frozen=True, kw_only=True):
    """Why a job failed, or its latest attempt: a code of the table of errors, and what was wrong."""

    code: str
    detail: str


class JobStage(Struct, frozen=True, kw_only=True):
    """A stage of a job, the instant (epoch seconds) at which it began, and the fraction of the whole that was done then."""

    stage: str
    at: float
    fraction: float


class JobProgress(Struct, frozen=True, kw_only=True):
    """How far an attempt has come: the `fraction` of the whole that is done, 0 to 1.

    Where the operation has stages, `stage` is the latest, and `stages` are all that have begun, in order.
    """

    fraction: float
    stage: str | None = None
    stages: list[JobStage] = field(default_factory=list)


class JobView(Struct, frozen=True, kw_only=True):
    """A job as it is now. Times are epoch seconds; `result` is the operation's response; `attempts` have failed so far.

    `progress` is that of the latest attempt that has reported any.
    """

    id: str
    operation: str
    queue: str
    state: JobState
    attempts: int
    created_at: float
    started_at: float | None = None
    ended_at: float | None = None
    result: Any = None
    error: JobError | None = None
    progress: JobProgress | None = None


class JobNoticeData(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A job that has ended, as told by its webhook: with its result, unless that is large, or with why it failed."""

    id: str
    operation: str
    queue: str
    state: Literal["completed", "failed"]
    result: Raw | UnsetType = UNSET
    error: JobError | None = None
    result_omitted: bool = False


class JobNotice(Struct, frozen=True, kw_only=True):
    """The message of a webhook, as Standard Webhooks has them; `timestamp` is that of the end, ISO 8601."""

    type: Literal["job.completed", "job.failed"]
    timestamp: str
    data: JobNoticeData


class ListJobsRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask for the jobs of the caller's organisation; `after` is the last one's id seen."""

    after: Id | None = None
    limit: PageSize = 100


class ListJobsResponse(Struct, frozen=True, kw_only=True):
    """Jobs, newest first, without their results; `next` continues the list as `after`, and is empty at its end."""

    jobs: list[JobView] = field(default_factory=list)
    next: str = ""


class JobRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Name a job."""

    id: Id
