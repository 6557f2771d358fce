"""`phalanx serve`: the worker."""

from __future__ import annotations

import asyncio
import gc
import io
import os
import sys

import typer
import uvloop

import phalanx
from phalanx.app import App, build, http_edge
from phalanx.cli.worker import read_settings
from phalanx.edges.http.connections import ConnectionLimits
from phalanx.edges.http.listeners import CannotListen
from phalanx.edges.http.loop_lag import LoopLagProbe
from phalanx.edges.http.metrics_server import metrics_server
from phalanx.edges.http.server import HttpServer, TlsFiles
from phalanx.settings import Settings, log_format
from phalanx.telemetry import LEVELS, RequestLog, configure_logs

LOG_BUFFER_BYTES = 65536
SWITCH_S = 0.0005
"""How long a thread may keep the interpreter from another: the engine thread's few lines must not stop the event loop
for Python's 5 ms, nor the loop's the engine."""

GC_THRESHOLD = (2_000, 5, 5)
"""Objects, and rounds, between collections. The last is small, since with the start's objects frozen a full collection is
cheap, and a closed connection is 8 KiB that only a collection frees: 2,000 of them at a time added up."""


def serve() -> None:
    """Serve over HTTP until SIGTERM or Ctrl-C; a second signal ends the draining at once.

    \b
    Examples:
      phalanx serve
      PORT=9000 APP_HOST=0.0.0.0 phalanx serve
      MODEL_PATH=./my-model phalanx serve
    """
    settings = read_settings()
    configure_logs(level=settings.log_level, style=log_format(settings))
    try:
        uvloop.run(_serve(settings))
    except CannotListen as error:
        typer.secho(str(error), fg="red", err=True)
        sys.exit(1)


async def _serve(settings: Settings) -> None:
    async with build(settings) as app:
        lag = LoopLagProbe(app.metrics.histogram("phalanx_event_loop_lag_seconds").observe)
        edge = _edge_server(app, lag)
        edge.bind()
        watched = settings.metrics_enabled
        host, port = settings.prometheus_bind
        metrics = metrics_server(app.metrics.registry, host=host, port=port, log=app.log)
        if watched:
            await metrics.start()
        lag.start()
        app.log.info(
            "listening", version=phalanx.__version__, pid=os.getpid(), host=settings.app_host, port=edge.port,
            metrics_host=host if watched else None, metrics_port=metrics.port if watched else None,
        )  # fmt: skip
        watching = asyncio.create_task(_load_and_watch(app))
        try:
            await edge.serve_forever()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            lag.stop()
            if watched:
                await metrics.drain()
    app.log.info("stopped")


def _edge_server(app: App, lag: LoopLagProbe) -> HttpServer:
    settings = app.settings
    tls = None
    if settings.tls_cert_file is not None and settings.tls_key_file is not None:
        tls = TlsFiles(settings.tls_cert_file, settings.tls_key_file)
    return HttpServer(
        http_edge(app, requests=_request_log(app), is_loop_turning=lag.is_turning), host=settings.app_host, port=settings.port, log=app.log, tls=tls,
        limits=ConnectionLimits(
            read_timeout_s=settings.server_read_timeout_secs, write_timeout_s=settings.server_write_timeout_secs,
            idle_timeout_s=settings.server_idle_timeout_secs,
        ),
        drain_delay_s=settings.drain_delay_secs, drain_timeout_s=settings.drain_timeout_secs,
        on_draining=app.health.begin_draining,
        on_refused=lambda code: app.metrics.counter("phalanx_refusals", code).inc(),
        request_id_header=settings.request_id_header,
    )  # fmt: skip


def _request_log(app: App) -> RequestLog:
    direct = log_format(app.settings) == "json" and LEVELS[app.settings.log_level] <= LEVELS["info"]
    # Python's own stderr is written out at every line's end.
    stream = (
        io.BufferedWriter(io.FileIO(sys.stderr.fileno(), "wb", closefd=False), LOG_BUFFER_BYTES) if direct else None
    )
    log = RequestLog(app.log, stream=stream)
    app.closing.callback(log.flush)
    return log


async def _load_and_watch(app: App) -> None:
    """Load the models while probes are answered already, then let the canary sing."""
    await app.load_models()
    # What is there now stays. Out of the collector's sight it costs no pause: a full collection took tens of ms, then none.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)
    sys.setswitchinterval(SWITCH_S)
    await app.health.watch()
