"""What `phalanx work` runs: a worker whose edge are queues."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import uvloop

import phalanx
from phalanx.app import build, queue_workers
from phalanx.app.closing import leave
from phalanx.cli.serving import load_and_watch, request_log, watch_readiness
from phalanx.edges.metrics_server import metrics_server
from phalanx.edges.queue.worker import QueueWorker
from phalanx.settings import Settings, log_format
from phalanx.signals import ignore_signals, on_signal
from phalanx.telemetry import Log, configure_logs


def work(settings: Settings) -> None:
    """Work on the queues of the settings until a signal ends it. Raises `CannotListen` for the metrics."""
    configure_logs(level=settings.log_level, style=log_format(settings))
    uvloop.run(_work(settings))


async def _work(settings: Settings) -> None:
    async with build(settings, is_serving=True) as app, AsyncExitStack() as held:
        workers = queue_workers(app, requests=request_log(app, {}))
        bound = await held.enter_async_context(_metrics(settings, app.metrics.registry, app.log))
        if not settings.is_shared:
            app.log.warning("without DATABASE_URL and REDIS_URL this must be the only process on its DATA_DIR")
        loading, watching = asyncio.create_task(load_and_watch(app)), asyncio.create_task(watch_readiness(app))
        try:
            while await app.health.readiness():
                if loading.done():
                    loading.result()
                await asyncio.sleep(0.1)
            app.log.info(
                "working", version=phalanx.__version__, pid=os.getpid(), queues=[spec.name for spec in settings.queues],
                metrics_host=bound and bound[0], metrics_port=bound and bound[1],
            )  # fmt: skip
            await _until_told(workers, app.log, settings.drain_timeout_secs)
        finally:
            loading.cancel()
            watching.cancel()
            await asyncio.gather(loading, watching, return_exceptions=True)
    app.log.info("stopped")
    ignore_signals()
    leave(app.log)


async def _until_told(workers: list[QueueWorker], log: Log, drain_s: float) -> None:
    """Work until a signal; then finish what runs, and at the next one give it back."""
    asked, hurried = asyncio.Event(), asyncio.Event()

    def ask() -> None:
        (hurried if asked.is_set() else asked).set()

    on_signal(ask)
    running = [asyncio.create_task(worker.run()) for worker in workers]
    waiting = asyncio.create_task(asked.wait())
    done, _ = await asyncio.wait({waiting, *running}, return_when=asyncio.FIRST_COMPLETED)
    for task in done - {waiting}:
        log.error("a queue is no longer worked on", exc_info=task.exception())
    log.info("draining")
    asked.set()
    stopping = asyncio.create_task(_stop(workers, drain_s))
    hurrying = asyncio.create_task(hurried.wait())
    await asyncio.wait({stopping, hurrying}, return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        for worker in workers:
            worker.give_back()
        await stopping
    for task in (waiting, hurrying, *running):
        task.cancel()
    await asyncio.gather(waiting, hurrying, *running, return_exceptions=True)


async def _stop(workers: list[QueueWorker], drain_s: float) -> None:
    await asyncio.gather(*(worker.stop(within_s=drain_s) for worker in workers))


@asynccontextmanager
async def _metrics(settings: Settings, registry: object, log: Log) -> AsyncIterator[tuple[str, int] | None]:
    """Serve metrics where they are wanted; yields where."""
    if not settings.metrics_enabled:
        yield None
        return
    host, port = settings.prometheus_bind
    server = metrics_server(registry, host=host, port=port, log=log)  # type: ignore[arg-type]
    await server.start()
    try:
        yield host, server.port
    finally:
        await server.drain()
