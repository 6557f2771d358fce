"""Rows about jobs. Queueing is not metered: the job is, when it runs."""

from __future__ import annotations

from phalanx.contract import jobs
from phalanx.operations.row import Body, Kind, Operation

JOBS: tuple[Operation, ...] = (
    Operation(
        name="jobs.create", request=jobs.CreateJobRequest, response=jobs.CreateJobResponse, scope="jobs",
        http="POST /v1/jobs", grpc="Jobs/Create", run=lambda s, t, r: s.jobs.create(t, r), metered=False, status=202,
        summary="Queue an operation, to be run as the caller.",
        examples=({"operation": "text.embed", "request": {"texts": ["Hello world"]}},),
    ),
    Operation(
        name="jobs.list", request=jobs.ListJobsRequest, response=jobs.ListJobsResponse, scope="jobs",
        http="GET /v1/jobs", grpc="Jobs/List", bodies=(Body.NONE,), run=lambda s, t, r: s.jobs.list(t, r), metered=False,
        summary="List the organisation's jobs, newest first.", examples=({},),
    ),
    Operation(
        name="jobs.get", request=jobs.JobRequest, response=jobs.JobView, scope="jobs", http="GET /v1/jobs/{id}",
        grpc="Jobs/Get", bodies=(Body.NONE,), run=lambda s, t, r: s.jobs.get(t, r), metered=False,
        summary="Show a job: its state, and its result or why it failed.",
    ),
    Operation(
        name="jobs.events", request=jobs.JobRequest, response=jobs.JobView, scope="jobs",
        http="GET /v1/jobs/{id}/events", grpc="Jobs/Events", kind=Kind.SERVER_STREAM, bodies=(Body.NONE,),
        run=lambda s, t, r: s.jobs.events(t, r), metered=False, summary="Follow a job until it has ended.",
    ),
    Operation(
        name="jobs.cancel", request=jobs.JobRequest, response=jobs.JobView, scope="jobs", http="DELETE /v1/jobs/{id}",
        grpc="Jobs/Cancel", bodies=(Body.NONE,), run=lambda s, t, r: s.jobs.cancel(t, r), metered=False,
        summary="Remove a job that is not running; one that waits will never run.",
    ),
)  # fmt: skip
