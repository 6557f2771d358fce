"""What `phalanx serve` runs: one worker, alone or in a seat beside others."""

from __future__ import annotations

import asyncio
import functools
import gc
import io
import os
import select
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

import structlog
import uvloop

import phalanx
from phalanx.app import ONE_PROCESS, App, build, http_edge, own_worker
from phalanx.app.closing import Closing, leave
from phalanx.cli.supervise import supervise, tls_files
from phalanx.edges.http.connections import ConnectionLimits
from phalanx.edges.http.loop_lag import LoopLagProbe
from phalanx.edges.http.server import Beside, HttpServer
from phalanx.edges.listeners import CannotListen
from phalanx.edges.metrics_server import metrics_server
from phalanx.engines.threads import share_of_cpus
from phalanx.errors import PhalanxError
from phalanx.settings import Settings, SettingsError, load, log_format
from phalanx.signals import ignore_signals
from phalanx.supervisor.lifeline import Lifeline, open_lifeline
from phalanx.supervisor.sums import snapshot
from phalanx.telemetry import LEVELS, RequestLog, configure_logs

if TYPE_CHECKING:
    from phalanx.edges.grpc.server import GrpcServer

LOG_BUFFER_BYTES = select.PIPE_BUF
"""Of request lines. What is written at once into a pipe is not torn apart by another worker up to this size."""

SWITCH_S = 0.0005
"""How long a thread may keep the interpreter from another: the engine thread's few lines must not stop the event loop
for Python's 5 ms, nor the loop's the engine."""

GC_THRESHOLD = (2_000, 5, 5)
"""Objects, and rounds, between collections. The last is small, since with the start's objects frozen a full collection is
cheap, and a closed connection is 8 KiB that only a collection frees: 2,000 of them at a time added up."""

STARTING_S = 0.1
RUNNING_S = 2.0
"""Seconds between two looks at whether the worker is ready, before and after it was for the first time."""

TellReady = Callable[[bool], None]


class Seat(NamedTuple):
    """What a supervisor gives a worker: a number, how many there are, the line to it, and listening sockets."""

    worker: int
    workers: str
    lifeline: int
    listeners: Sequence[int]
    grpc_port: int = -1


def serve(settings: Settings, services: Sequence[str]) -> int:
    """Serve until a signal ends it, by one worker or several; return the exit status. Raises `CannotListen`.

    `services` are what the command was told to serve, in place of the settings'.
    """
    configure_logs(level=settings.log_level, style=log_format(settings))
    if settings.lacks_qdrant:
        structlog.get_logger("phalanx").warning("every call about collections will be refused", reason=ONE_PROCESS)
    if settings.workers > 1:
        return supervise(settings, services)
    uvloop.run(_serve_alone(settings))
    return 0


def serve_in(seat: Seat, given: Mapping[str, str]) -> None:
    """Serve as one of several workers; `given` are variables that the command was told."""
    uvloop.run(_serve_in(seat, given))


async def _serve_alone(settings: Settings) -> None:
    async with _worker(settings) as (app, edge, beside):
        edge.bind()
        for server in beside:
            server.bind()
        watched = settings.metrics_enabled
        host, port = settings.prometheus_bind
        metrics = metrics_server(app.metrics.registry, host=host, port=port, log=app.log)
        if watched:
            await metrics.start()
        app.log.info(
            "listening", version=phalanx.__version__, pid=os.getpid(), host=settings.app_host, port=edge.port,
            metrics_host=host if watched else None, metrics_port=metrics.port if watched else None,
            grpc_port=beside[0].port if beside else None,
        )  # fmt: skip
        try:
            await edge.serve_forever(beside, keeps_signals=True)
        finally:
            if watched:
                await metrics.drain()
    ignore_signals()
    leave(app.log)


async def _serve_in(seat: Seat, given: Mapping[str, str]) -> None:
    """Serve as one of several workers, and tell the supervisor if that cannot be."""
    async with open_lifeline(seat.lifeline, log=structlog.get_logger("phalanx")) as lifeline:
        try:
            # The supervisor has said what is odd about the environment.
            settings = load(given={**given, "WORKERS": seat.workers}).settings
            fields = {"worker": f"{seat.worker}/{settings.workers}"}
            configure_logs(level=settings.log_level, style=log_format(settings), fields=fields)
            await _serve_shared(settings, seat, lifeline, fields)
        except SettingsError as error:
            lifeline.fail(" ".join(error.problems))
            raise
        except (PhalanxError, CannotListen) as error:
            lifeline.fail(error.detail if isinstance(error, PhalanxError) else str(error))
            raise
    ignore_signals()
    leave(structlog.get_logger("phalanx"))


async def _serve_shared(settings: Settings, seat: Seat, lifeline: Lifeline, fields: Mapping[str, str]) -> None:
    sockets = [socket.socket(fileno=fd) for fd in seat.listeners]
    tell = functools.partial(_tell, lifeline)
    async with _worker(settings, sockets=sockets, fields=fields, tell_ready=tell, grpc_port=seat.grpc_port) as (
        app,
        edge,
        beside,
    ):
        if settings.metrics_enabled:
            lifeline.report(functools.partial(snapshot, app.metrics.registry))
        if not await lifeline.until_accepting():
            return
        servers: list[Beside] = [edge, *beside]
        for server in servers:
            await server.start()
        lifeline.update(accepting=True)
        app.log.info("accepting", version=phalanx.__version__, pid=os.getpid(), port=edge.port)
        how = await lifeline.until_draining()
        lifeline.update(ready=False, accepting=not how.at_once)
        lifeline.on_hurry(functools.partial(_hurry, *servers))
        await asyncio.gather(*(server.drain(at_once=how.at_once) for server in servers))


def _hurry(*servers: Beside) -> None:
    for server in servers:
        server.hurry()


def _tell(lifeline: Lifeline, ready: bool) -> None:
    lifeline.update(ready=ready)


@asynccontextmanager
async def _worker(
    settings: Settings,
    *,
    sockets: Sequence[socket.socket] = (),
    fields: Mapping[str, str] | None = None,
    tell_ready: TellReady = lambda ready: None,
    grpc_port: int = -1,
) -> AsyncIterator[tuple[App, HttpServer, list[GrpcServer]]]:
    """Open a worker whose models load while its edge may already answer probes."""
    async with build(settings, is_serving=True) as app:
        lag = LoopLagProbe(app.metrics.histogram("phalanx_event_loop_lag_seconds").observe)
        requests = request_log(app, fields or {})
        edge = _edge_server(app, lag, sockets, requests)
        beside: list[GrpcServer] = []
        if settings.grpc_port is not None:
            # Who does not speak gRPC is spared its 11 MiB.
            from phalanx.app.grpc import grpc_server

            beside.append(grpc_server(app, requests=requests, port=grpc_port if grpc_port >= 0 else None))
        lag.start()
        async with Closing(app.log) as closing:
            closing.callback(lag.stop)
            for work in (load_and_watch(app), watch_readiness(app, tell_ready), _run_jobs(app, requests)):
                closing.keep_running(work)
            yield app, edge, beside
    app.log.info("stopped")


def _edge_server(app: App, lag: LoopLagProbe, sockets: Sequence[socket.socket], requests: RequestLog) -> HttpServer:
    settings = app.settings
    edge = http_edge(app, requests=requests, is_loop_turning=lag.is_turning)
    return HttpServer(
        edge, host=settings.app_host, port=settings.port, log=app.log, tls=tls_files(settings), sockets=sockets,
        limits=ConnectionLimits(
            read_timeout_s=settings.server_read_timeout_secs, write_timeout_s=settings.server_write_timeout_secs,
            idle_timeout_s=settings.server_idle_timeout_secs,
        ),
        drain_delay_s=settings.drain_delay_secs, drain_timeout_s=settings.drain_timeout_secs,
        on_draining=app.health.begin_draining,
        on_refused=lambda code: app.metrics.counter("phalanx_refusals", code).inc(),
        request_id_header=settings.request_id_header, cors=edge.cors,
    )  # fmt: skip


def request_log(app: App, fields: Mapping[str, str]) -> RequestLog:
    """Return where the line of each request goes, with `fields` in every one."""
    direct = log_format(app.settings) == "json" and LEVELS[app.settings.log_level] <= LEVELS["info"]
    # Python's own stderr is written out at every line's end.
    stream = (
        io.BufferedWriter(io.FileIO(sys.stderr.fileno(), "wb", closefd=False), LOG_BUFFER_BYTES) if direct else None
    )
    log = RequestLog(app.log, stream=stream, fields=fields)
    app.closing.callback(log.flush)
    return log


async def load_and_watch(app: App) -> None:
    """Load the models while probes are answered already, then let the canary sing and follow the store."""
    await app.load_models(threads=share_of_cpus(app.settings.workers))
    # What is there now stays. Out of the collector's sight it costs no pause: a full collection took tens of ms, then none.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)
    sys.setswitchinterval(SWITCH_S)
    await asyncio.gather(app.health.watch(), app.rollouts.watch())


async def _run_jobs(app: App, requests: RequestLog) -> None:
    """Run the jobs that are in this worker's own database, once it can serve."""
    if app.stores.own_jobs is None:
        return
    while await app.health.readiness():  # noqa: ASYNC110 - readiness is looked at, it tells nobody
        await asyncio.sleep(STARTING_S)
    await own_worker(app, app.stores.own_jobs, requests=requests).run()


async def watch_readiness(app: App, tell: TellReady = lambda ready: None) -> None:
    """Keep the metric, and who else wants to know, up to whether the worker can serve."""
    gauge = app.metrics.gauge("phalanx_ready")
    was_ready = False
    while True:
        ready = not await app.health.readiness()
        was_ready = was_ready or ready
        gauge.set(ready)
        tell(ready)
        await asyncio.sleep(RUNNING_S if was_ready else STARTING_S)
