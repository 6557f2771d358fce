"""One address of another worker: its connection, its breaker, and how many calls it has under way."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from phalanx.settings.remote import ServiceUrl
from phalanx.upstreams.breaker import Breaker
from phalanx.upstreams.remote_answers import Failure, Used

CONNECT_S = 1.0
"""For a connection, before another address is tried."""
ATTEMPT_S = 5.0
KEEPALIVE_S, KEEPALIVE_ANSWER_S = 15.0, 5.0
"""After so much silence an address is asked whether it is there; no worker of ours minds one ping in 10 s."""
MAX_ANSWER_BYTES = 256 * 2**20
MAX_METADATA_BYTES = 64 * 1024
HEALTH = "/grpc.health.v1.Health/Check"


class ClientTls(NamedTuple):
    """PEM files for `grpcs://`: who signs the workers' certificates (None: the system's authorities), and our own."""

    authorities: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


class Lost(Exception):
    """A call failed; `failure` says how, `used` what had been done by then."""

    def __init__(self, failure: Failure, used: Used | None) -> None:
        super().__init__(failure.error.detail)
        self.failure = failure
        self.used = used


class Address:
    """One address, with a connection of its own, which `close` ends."""

    def __init__(self, url: ServiceUrl, tls: ClientTls) -> None:
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.keepalive_time_ms", int(KEEPALIVE_S * 1e3)),
            ("grpc.keepalive_timeout_ms", int(KEEPALIVE_ANSWER_S * 1e3)),
            ("grpc.initial_reconnect_backoff_ms", 100),
            # How long one attempt may take; who waits for it gives up sooner.
            ("grpc.min_reconnect_backoff_ms", int(ATTEMPT_S * 1e3)),
            ("grpc.max_reconnect_backoff_ms", 1000),
            ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", MAX_METADATA_BYTES),
            ("grpc.enable_retries", 0),
        ]
        self.url = url
        self.breaker = Breaker()
        self.under_way = 0
        self.taken_at = 0.0
        if url.is_tls:
            self.channel = grpc.aio.secure_channel(url.target, _credentials(tls), options)
        else:
            self.channel = grpc.aio.insecure_channel(url.target, options)

    async def connect(self, within_s: float) -> bool:
        """Whether there is a connection, within so many seconds."""
        ready, failed = grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.TRANSIENT_FAILURE
        state = self.channel.get_state(try_to_connect=True)
        try:
            async with asyncio.timeout(within_s):
                while state is not ready:
                    if state in (failed, grpc.ChannelConnectivity.SHUTDOWN):
                        return False
                    await self.channel.wait_for_state_change(state)
                    state = self.channel.get_state(try_to_connect=True)
        except TimeoutError:
            return False
        return True

    async def health(self, service: str, within_s: float) -> str:
        """Return what its health service says of a service: SERVING, NOT_SERVING. Raises `grpc.aio.AioRpcError`."""
        check = self.channel.unary_unary(
            HEALTH, request_serializer=HealthCheckRequest.SerializeToString,
            response_deserializer=HealthCheckResponse.FromString,
        )  # fmt: skip
        answer = await check(HealthCheckRequest(service=service), timeout=within_s)
        return str(HealthCheckResponse.ServingStatus.Name(answer.status))

    def is_connected(self) -> bool:
        """Whether there is a connection now; one is begun otherwise, for a later call to find."""
        state = self.channel.get_state(try_to_connect=True)
        return bool(state is grpc.ChannelConnectivity.READY)

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Count a call; tell the breaker how it ended."""
        self.under_way += 1
        self.taken_at = time.monotonic()
        self.breaker.begin()
        try:
            yield
        except Lost as lost:
            (self.breaker.failed if lost.failure.is_lost else self.breaker.succeeded)()
            raise
        except BaseException:
            self.breaker.left()
            raise
        else:
            self.breaker.succeeded()
        finally:
            self.under_way -= 1


def _credentials(tls: ClientTls) -> Any:
    def read(path: Path | None) -> bytes | None:
        return path.read_bytes() if path is not None else None

    return grpc.ssl_channel_credentials(read(tls.authorities), read(tls.key), read(tls.certificate))
