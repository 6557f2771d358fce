"""The metrics listener: Prometheus text or OpenMetrics on a port of its own, under the same limits as the edge's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from phalanx.edges.http.connections import ConnectionLimits
from phalanx.edges.http.server import HttpServer
from phalanx.telemetry import Log

SCRAPERS = 64
"""Open connections; a Prometheus server keeps one."""


def metrics_server(registry: CollectorRegistry, *, host: str, port: int, log: Log) -> HttpServer:
    """Return a server of `GET /metrics`, to be bound, started and drained. PROMETHEUS_BIND is where it listens."""
    limits = ConnectionLimits(max_connections=SCRAPERS, max_head_bytes=8192, idle_timeout_s=300.0)
    return HttpServer(
        MetricsApp(registry),
        host=host,
        port=port,
        log=log,
        limits=limits,
        drain_timeout_s=2.0,
        setting="PROMETHEUS_BIND",
    )


class MetricsApp:
    """An ASGI application with one route. The `Accept` header chooses OpenMetrics or Prometheus text."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        """Answer one request."""
        status, content_type, body = 200, "text/plain; charset=utf-8", b""
        if scope["path"] != "/metrics":
            status, body = 404, b"metrics are at /metrics\n"
        elif scope["method"] not in ("GET", "HEAD"):
            status, body = 405, b"GET or HEAD\n"
        else:
            content_type, body = self._exposition(dict(scope["headers"]).get(b"accept", b""))
        headers = [(b"content-type", content_type.encode()), (b"content-length", b"%d" % len(body))]
        if status == 405:
            headers.append((b"allow", b"GET, HEAD"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _exposition(self, accept: bytes) -> tuple[str, bytes]:
        # prometheus_client's own choice fails on a version that is no number.
        if b"application/openmetrics-text" in accept.lower():
            body: bytes = openmetrics.generate_latest(self._registry)  # type: ignore[no-untyped-call]
            return openmetrics.CONTENT_TYPE_LATEST, body
        return CONTENT_TYPE_LATEST, generate_latest(self._registry)
