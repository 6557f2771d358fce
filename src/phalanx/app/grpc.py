"""The gRPC edge of a worker's parts, and its server."""

from __future__ import annotations

from phalanx.app.worker import App
from phalanx.edges.grpc.app import GrpcEdge
from phalanx.edges.grpc.schema import Schema, SchemaNotBuilt
from phalanx.edges.grpc.server import GrpcServer, GrpcTls
from phalanx.edges.grpc.shapes import SchemaMismatch
from phalanx.edges.listeners import CannotListen
from phalanx.errors import PhalanxError
from phalanx.telemetry import RequestLog

TEXT, FACES = "phalanx.v1.Text", "phalanx.v1.Faces"


def grpc_edge(app: App, *, requests: RequestLog | None = None) -> GrpcEdge:
    """Return the gRPC edge of a worker's parts. Raises `SchemaNotBuilt` and `SchemaMismatch`."""
    settings = app.settings
    return GrpcEdge(
        app.entrance, app.operations, Schema({**app.operations, **app.elsewhere}), elsewhere=app.elsewhere, metrics=app.metrics, log=app.log, requests=requests,
        max_body_bytes=lambda row: settings.body_limit(row.max_body_bytes), request_id_header=settings.request_id_header,
        read_timeout_s=settings.server_read_timeout_secs, write_timeout_s=settings.server_write_timeout_secs,
        refuse_clear=settings.force_https and settings.tls_cert_file is None, on_finished=app.health.latencies.add,
        on_refused=lambda code: app.metrics.counter("phalanx_refusals", code).inc(),
    )  # fmt: skip


def grpc_server(app: App, *, requests: RequestLog | None = None, port: int | None = None) -> GrpcServer:
    """Return the server of the gRPC edge on GRPC_PORT, or on a `port` that several workers share. Raises `CannotListen`."""
    settings = app.settings
    assert settings.grpc_port is not None
    try:
        edge = grpc_edge(app, requests=requests)
    except (SchemaNotBuilt, SchemaMismatch) as error:
        raise CannotListen(f"there is no gRPC edge: {error}") from error

    async def healthy() -> dict[str, bool]:
        ready = not await app.health.readiness()
        up = not app.health.draining
        found = dict.fromkeys(edge.services, up)
        remote = settings.remote
        has_faces = "face-embedding" in remote or _has_faces(app)
        own = {"": ready, TEXT: up if "text" in remote else ready, FACES: up and has_faces}
        return {**found, **{name: serving for name, serving in own.items() if not name or name in found}}

    tls = None
    if settings.tls_cert_file is not None and settings.tls_key_file is not None:
        tls = GrpcTls(settings.tls_cert_file, settings.tls_key_file, settings.tls_client_ca_file)
    return GrpcServer(
        edge, host=settings.app_host, port=settings.grpc_port if port is None else port, log=app.log, healthy=healthy,
        tls=tls, reuse_port=port is not None, max_calls=settings.max_concurrent_requests + settings.max_streams,
        idle_timeout_s=settings.server_idle_timeout_secs, handshake_timeout_s=settings.server_read_timeout_secs,
        drain_delay_s=settings.drain_delay_secs, drain_timeout_s=settings.drain_timeout_secs,
    )  # fmt: skip


def _has_faces(app: App) -> bool:
    try:
        app.face_models.detector()
        app.face_models.embedder()
    except PhalanxError:
        return False
    return True
