"""The gRPC server: its port, its limits, TLS, health, reflection, and its way to stop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha._async import ReflectionServicer

from phalanx.edges.grpc.app import GrpcEdge
from phalanx.edges.listeners import CannotListen
from phalanx.telemetry import Log

MAX_METADATA_BYTES = 16 * 1024
PING_INTERVAL_S = 10.0
"""The least time between two keepalive pings of a client, above which it is sent away; Go's clients do not go below it."""
MAX_PING_STRIKES = 3
KEEPALIVE_S, KEEPALIVE_ANSWER_S = 60.0, 20.0
"""After so much silence a client is asked whether it is there, and given up without an answer."""
LOOK_S = 1.0
"""Seconds between two looks at what the health service says."""
CANCELLED_S = 2.0

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

Healthy = Callable[[], Awaitable[Mapping[str, bool]]]
"""Whether each service can serve now, by its full name, and under the empty name the worker."""


class GrpcTls(NamedTuple):
    """PEM files: the certificate chain, its private key and, for mutual TLS, who signs clients' certificates."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


class GrpcServer:
    """Serves a `GrpcEdge`. `bind`, `start`, then `drain`; once each. Durations are in seconds.

    `port` 0 takes a free one. With `reuse_port` several processes bind the same one. `healthy` is asked about once a
    second; while draining, nothing is. After `drain_delay_s` no new calls are taken; those under way are given
    `drain_timeout_s`, then cancelled.
    """

    def __init__(
        self,
        edge: GrpcEdge,
        *,
        host: str,
        port: int,
        log: Log,
        healthy: Healthy,
        tls: GrpcTls | None = None,
        reuse_port: bool = False,
        max_calls: int = 356,
        idle_timeout_s: float = 120.0,
        handshake_timeout_s: float = 15.0,
        drain_delay_s: float = 0.0,
        drain_timeout_s: float = 30.0,
    ) -> None:
        self._edge, self._log, self._healthy = edge, log, healthy
        self._host, self._wanted_port, self._tls = host, port, tls
        self._drain_delay_s, self._drain_timeout_s = drain_delay_s, drain_timeout_s
        self._options = _options(
            edge.max_message_bytes, max_calls=max_calls, idle_s=idle_timeout_s, handshake_s=handshake_timeout_s,
            reuse_port=reuse_port,
        )  # fmt: skip
        self._server: Any = None
        self._health = health.aio.HealthServicer()
        self._looking: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self.port = 0

    def bind(self) -> None:
        """Bind the port. Raises `CannotListen`, also when a TLS file cannot be used."""
        server = grpc.aio.server(options=self._options)
        server.add_generic_rpc_handlers((self._edge,))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        _reflect(server, self._edge)
        address = f"[{self._host}]:{self._wanted_port}" if ":" in self._host else f"{self._host}:{self._wanted_port}"
        try:
            if self._tls is None:
                self.port = server.add_insecure_port(address)
            else:
                self.port = server.add_secure_port(address, _credentials(self._tls))
        except RuntimeError:
            raise CannotListen(
                f"port {self._wanted_port} on {self._host} cannot be bound for gRPC; it may be taken by another process. "
                "Set GRPC_PORT to another, or stop that process."
            ) from None
        self._server = server

    async def start(self) -> None:
        """Begin to accept. Raises `CannotListen`."""
        if self._server is None:
            self.bind()
        await self._look()
        await self._server.start()
        self._looking = asyncio.create_task(self._keep_looking())

    def hurry(self) -> None:
        """Have a drain under way, or the next one, give up waiting."""
        self._hurry.set()

    async def drain(self, *, at_once: bool = False) -> None:
        """Say that nothing is served, wait, take no more calls, let those under way finish, cancel the rest.

        `at_once` leaves out the first wait.
        """
        if self._server is None:
            return
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        await self._health.enter_graceful_shutdown()
        if not at_once and self._drain_delay_s:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._drain_delay_s):
                    await self._hurry.wait()
        stopping = asyncio.create_task(self._server.stop(self._drain_timeout_s))
        hurrying = asyncio.create_task(self._hurry.wait())
        await asyncio.wait({stopping, hurrying}, return_when=asyncio.FIRST_COMPLETED)
        hurrying.cancel()
        if not stopping.done():
            # A second stop shortens the first.
            await self._server.stop(0)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CANCELLED_S):
                await stopping

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self._look()
            except Exception as bug:
                self._log.error("bug", exc_info=bug)

    async def _look(self) -> None:
        for name, serving in (await self._healthy()).items():
            await self._health.set(name, SERVING if serving else NOT_SERVING)


def _options(
    max_bytes: int, *, max_calls: int, idle_s: float, handshake_s: float, reuse_port: bool
) -> list[tuple[str, int]]:
    """Return the channel arguments: what one connection may do."""
    return [
        ("grpc.so_reuseport", int(reuse_port)),
        ("grpc.max_receive_message_length", max_bytes + MAX_METADATA_BYTES),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.max_concurrent_streams", max_calls),
        ("grpc.max_connection_idle_ms", round(idle_s * 1e3)),
        ("grpc.server_handshake_timeout_ms", round(handshake_s * 1e3)),
        ("grpc.keepalive_time_ms", round(KEEPALIVE_S * 1e3)),
        ("grpc.keepalive_timeout_ms", round(KEEPALIVE_ANSWER_S * 1e3)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", round(PING_INTERVAL_S * 1e3)),
        ("grpc.http2.max_ping_strikes", MAX_PING_STRIKES),
    ]


def _credentials(tls: GrpcTls) -> Any:
    """Return a server's TLS. Raises `CannotListen`."""
    try:
        chain, key = tls.certificate.read_bytes(), tls.key.read_bytes()
        ca = tls.client_ca.read_bytes() if tls.client_ca is not None else None
    except OSError as unusable:
        raise CannotListen(
            f"a file of TLS_CERT_FILE, TLS_KEY_FILE and TLS_CLIENT_CA_FILE cannot be read ({unusable})"
        ) from unusable
    return grpc.ssl_server_credentials([(key, chain)], root_certificates=ca, require_client_auth=ca is not None)


REFLECTED = ("grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection")
"""Both names by which clients ask; the messages are the same."""


def _reflect(server: Any, edge: GrpcEdge) -> None:
    names = (*edge.services, "grpc.health.v1.Health", *REFLECTED)
    servicer = ReflectionServicer(names, pool=_reflected_pool(edge.schema.pool))
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo, reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )  # fmt: skip
    methods = {"ServerReflectionInfo": handler}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(REFLECTED[1], methods),))


def _reflected_pool(pool: DescriptorPool) -> DescriptorPool:
    """Return the edge's pool with the services that come with gRPC."""
    files = [FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb) for module in (health_pb2, reflection_pb2)]
    for file in (*files, _renamed(files[1], "grpc.reflection.v1alpha", "grpc.reflection.v1")):
        pool.AddSerializedFile(file.SerializeToString())
    return pool


def _renamed(file: FileDescriptorProto, old: str, new: str) -> FileDescriptorProto:
    """Return a copy of a file in another package."""
    copy = FileDescriptorProto()
    copy.CopyFrom(file)
    copy.name, copy.package = new.replace(".", "/") + "/reflection.proto", new
    for message in copy.message_type:
        for field in message.field:
            if not field.type_name:
                continue
            field.type_name = field.type_name.replace(f".{old}.", f".{new}.")
    for service in copy.service:
        for method in service.method:
            method.input_type = method.input_type.replace(f".{old}.", f".{new}.")
            method.output_type = method.output_type.replace(f".{old}.", f".{new}.")
    return copy
