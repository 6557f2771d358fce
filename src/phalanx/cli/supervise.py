"""Several workers under one supervisor: what they share is bound and migrated once, before the first of them starts."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Sequence

import structlog
from prometheus_client import CollectorRegistry

import phalanx
from phalanx.edges.http.server import TlsFiles, tls_context
from phalanx.edges.listeners import bind
from phalanx.edges.metrics_server import metrics_server
from phalanx.settings import Settings
from phalanx.signals import ENDING, ignore_signals
from phalanx.stores.sql.database import migrate
from phalanx.supervisor.supervisor import Patience, Supervisor

START_SILENCE_S = 120.0
"""Seconds without a sign of life before a worker is ready: a model that is loaded may hold the interpreter."""
CLOSING_S = 15.0
"""Seconds that a worker is given, beyond its drain, to hand usage on and to close its stores."""


def supervise(settings: Settings, services: Sequence[str] = ()) -> int:
    """Run the workers that the settings want until a signal ends them; return the exit status.

    `services` are what the command was told to serve, in place of the settings'.
    Raises `CannotListen` when the ports or the TLS files cannot be used, and what the migration raises.
    """
    if (files := tls_files(settings)) is not None:
        tls_context(files)
    listeners = bind(settings.app_host, settings.port, setting="PORT")
    reserved = reserve(settings) if settings.grpc_port is not None else None
    migrate(settings.database)
    return asyncio.run(_supervise(settings, services, listeners, reserved.getsockname()[1] if reserved else None))


def reserve(settings: Settings) -> socket.socket:
    """Bind the port that every worker's gRPC edge is to share, without listening. Raises `CannotListen`.

    Bound here, a port that another program has is found before the first worker starts, and a free one is the same for all.
    """
    assert settings.grpc_port is not None
    return bind(settings.app_host, settings.grpc_port, setting="GRPC_PORT", shared=True)[0]


def tls_files(settings: Settings) -> TlsFiles | None:
    """Return the files for TLS, None where the edge speaks plain HTTP."""
    if settings.tls_cert_file is None or settings.tls_key_file is None:
        return None
    return TlsFiles(settings.tls_cert_file, settings.tls_key_file)


async def _supervise(
    settings: Settings, services: Sequence[str], listeners: Sequence[socket.socket], grpc_port: int | None
) -> int:
    log = structlog.get_logger("phalanx")
    drain_s = settings.drain_delay_secs + settings.drain_timeout_secs + CLOSING_S
    silence_s = settings.worker_timeout_secs
    supervisor = Supervisor(
        # Without the working directory among the places that modules come from.
        [
            sys.executable, "-P", "-m", "phalanx.cli", "serve", *services, "--workers", str(settings.workers),
            *(("--grpc-port", str(grpc_port)) if grpc_port is not None else ()),
        ],
        workers=settings.workers, listeners=listeners, log=log,
        patience=Patience(silence_s=silence_s, start_silence_s=max(silence_s, START_SILENCE_S), drain_s=drain_s),
    )  # fmt: skip
    registry = CollectorRegistry()
    registry.register(supervisor.sums)
    watched = settings.metrics_enabled
    host, port = settings.prometheus_bind
    metrics = metrics_server(registry, host=host, port=port, log=log)
    if watched:
        await metrics.start()
    log.info(
        "listening", version=phalanx.__version__, pid=os.getpid(), host=settings.app_host,
        port=listeners[0].getsockname()[1], metrics_host=host if watched else None,
        metrics_port=metrics.port if watched else None, grpc_port=grpc_port, workers=settings.workers,
    )  # fmt: skip
    try:
        return await supervisor.run(keeps_signals=True)
    finally:
        if watched:
            await metrics.drain()
        log.info("stopped")
        ignore_signals((*ENDING, signal.SIGHUP))
