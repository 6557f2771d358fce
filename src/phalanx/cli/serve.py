"""`phalanx serve`: one worker, or a supervisor of several."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from phalanx.cli.worker import read_settings
from phalanx.contract.services import PORTS

METRICS_OFFSET = 1500
"""From the port of a service that is served alone to that of its metrics."""


def serve(
    services: list[str] = typer.Argument(
        None, metavar="SERVICE", help="Services to serve, in place of SERVICES: one or several, by default all."
    ),
    port: str = typer.Option("", "--port", metavar="PORT", help="Port of the HTTP edge, in place of PORT."),
    workers: str = typer.Option("", "--workers", metavar="N", help="Worker processes, in place of WORKERS."),
    worker: int = typer.Option(0, hidden=True),
    lifeline: int = typer.Option(-1, hidden=True),
    listener: list[int] = typer.Option([], hidden=True),
    grpc_port: int = typer.Option(-1, hidden=True),
) -> None:
    """Serve over HTTP, and over gRPC where GRPC_PORT is set, until SIGTERM or Ctrl-C; a second signal ends the draining at once.

    Several workers share the port and the metrics listener; SIGHUP then
    replaces them one after the other.

    SERVICE is text, face-detection, face-embedding, image-processing,
    similarity or collections, or for several faces, images or vectors. Alone,
    face-detection listens on port 8001, face-embedding on 8002,
    image-processing on 8003 and similarity on 8004, and shows its metrics on
    9501 to 9504.

    \b
    Examples:
      phalanx serve
      phalanx serve face-detection --port 9001
      PORT=9000 APP_HOST=0.0.0.0 phalanx serve
      MODEL_PATH=./my-model phalanx serve
      DATABASE_URL=postgresql://… REDIS_URL=redis://… phalanx serve --workers 4
    """
    given = {
        name: value
        for name, value in (("SERVICES", ",".join(services or ())), ("PORT", port), ("WORKERS", workers))
        if value
    }
    settings = None if lifeline >= 0 else read_settings(given, own_ports(services or ()))
    # Here, since the parts of a worker take a second to read: help, and what is wrong with settings, are told before.
    from phalanx.cli import serving

    if settings is None:
        serving.serve_in(serving.Seat(worker, workers, lifeline, listener, grpc_port), given)
    else:
        sys.exit(serving.serve(settings, services or ()))


def own_ports(services: Sequence[str]) -> dict[str, str]:
    """Return where a service that is served alone listens: beside other services of the same machine."""
    if len(services) != 1 or services[0] not in PORTS:
        return {}
    port = PORTS[services[0]]
    return {"PORT": str(port), "PROMETHEUS_BIND": f"127.0.0.1:{port + METRICS_OFFSET}"}
