"""The queue edge of a worker's parts, and the workers of its queues."""

from __future__ import annotations

from phalanx.app.worker import App
from phalanx.edges.queue.app import QueueEdge
from phalanx.edges.queue.own import OwnWorker
from phalanx.edges.queue.turnstile import Turnstile
from phalanx.edges.queue.worker import QueueWorker
from phalanx.ports.jobs import OwnJobs
from phalanx.settings import SettingsError
from phalanx.stores.memory.clock import SystemClock
from phalanx.telemetry import RequestLog


def queue_edge(app: App, *, requests: RequestLog | None = None) -> QueueEdge:
    """Return the queue edge of a worker's parts."""
    settings = app.settings
    return QueueEdge(
        app.entrance, app.operations, elsewhere=app.elsewhere, mappings=settings.queue_job_map, metrics=app.metrics,
        log=app.log, requests=requests, max_body_bytes=lambda row: settings.body_limit(row.max_body_bytes),
        on_finished=app.health.latencies.add, webhooks=app.webhooks,
    )  # fmt: skip


def own_worker(app: App, jobs: OwnJobs, *, requests: RequestLog | None = None) -> OwnWorker:
    """Return what runs the jobs in a worker's own database."""
    settings = app.settings
    return OwnWorker(
        queue_edge(app, requests=requests), jobs, clock=SystemClock(), concurrency=settings.queue_concurrency,
        attempts=settings.queue_attempts, log=app.log, metrics=app.metrics,
    )  # fmt: skip


def queue_workers(app: App, *, requests: RequestLog | None = None) -> list[QueueWorker]:
    """Return a worker for each queue of QUEUES. Raises `SettingsError` when there is none, or no Redis."""
    settings = app.settings
    url = settings.jobs_url
    problems = []
    if url is None:
        problems.append("QUEUE_REDIS_URL: neither it nor REDIS_URL is set; queues are in Redis.")
    if not settings.queues:
        problems.append("QUEUES: name the queues to take jobs from, there or on the command line.")
    unknown = sorted({one.operation for one in settings.queue_job_map.values()} - _jobs(app))
    problems += [f"QUEUE_JOB_MAP: there is no operation {name!r} that takes jobs." for name in unknown]
    if problems or url is None:
        raise SettingsError(problems)
    edge, turnstile = queue_edge(app, requests=requests), Turnstile()
    return [
        QueueWorker(
            edge, spec, url, turnstile=turnstile, concurrency=settings.queue_concurrency,
            attempts=settings.queue_attempts, log=app.log, metrics=app.metrics,
        )
        for spec in settings.queues
    ]  # fmt: skip


def _jobs(app: App) -> set[str]:
    return {name for rows in (app.operations, app.elsewhere) for name, row in rows.items() if row.job}
