"""Other workers, called over gRPC: several addresses of one service, the least busy first.

Messages are bytes here; who composes the worker knows what they mean.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from phalanx.errors import DeadlineExceeded, PhalanxError, Unavailable, UpstreamFailed
from phalanx.settings import Secret
from phalanx.settings.remote import ServiceUrl
from phalanx.telemetry import Log
from phalanx.upstreams.breaker import Breaker
from phalanx.upstreams.remote_answers import Failure, Used, failure_of, metadata_of, used_of

CONNECT_S = 1.0
"""For a connection, before another address is tried."""
ATTEMPT_S = 5.0
PING_S = 1.5
KEEPALIVE_S, KEEPALIVE_ANSWER_S = 15.0, 5.0
"""After so much silence an address is asked whether it is there; no worker of ours minds one ping in 10 s."""
MAX_ANSWER_BYTES = 256 * 2**20
MAX_METADATA_BYTES = 64 * 1024
HEALTH = "/grpc.health.v1.Health/Check"

Metadata = Sequence[tuple[str, str]]


class ClientTls(NamedTuple):
    """PEM files for `grpcs://`: who signs the workers' certificates (None: the system's authorities), and our own."""

    authorities: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


class Answered(NamedTuple):
    """An answer's bytes, None at the end of a stream; and what all has used, None when the other worker did not say.

    `metadata` are all that came with an answer to a unary call.
    """

    data: bytes | None
    used: Used | None
    metadata: Mapping[str, Any] = MappingProxyType({})


class Lost(Exception):
    """A call failed; `failure` says how, `used` what had been done by then."""

    def __init__(self, failure: Failure, used: Used | None) -> None:
        super().__init__(failure.error.detail)
        self.failure = failure
        self.used = used


class _Address:
    """One address, with a connection of its own."""

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


class RemoteWorkers:
    """The workers of one service. `setting` is the variable that names them: errors say it in place of an address.
    `service` is the full name of the service that is called, which their health is asked for.

    Made and used on one loop. Deadlines are in seconds of the monotonic clock.
    """

    def __init__(
        self, setting: str, urls: Sequence[ServiceUrl], service: str, *, key: Secret, tls: ClientTls | None = None,
        log: Log,
    ) -> None:  # fmt: skip
        self._setting = setting
        self._service = service
        self._addresses = [_Address(url, tls or ClientTls()) for url in urls]
        self._credential = (("authorization", f"Bearer {key}"),) if key else ()
        self._log = log

    async def close(self) -> None:
        """End all connections."""
        await asyncio.gather(*(address.channel.close() for address in self._addresses))

    async def unary(self, path: str, data: bytes, metadata: Metadata, deadline: float) -> Answered:
        """Call once; a second time, on another address if there is one, where the first worker went away or has no room.

        Raises `Lost` with the error of the worker, `Unavailable` when no address answers, and `DeadlineExceeded`.
        """
        first = await self._address((), deadline)
        try:
            return await self._unary(first, path, data, metadata, deadline)
        except Lost as lost:
            is_alone = len(self._addresses) == 1
            if not lost.failure.is_worth_another or (is_alone and not lost.failure.is_lost):
                raise
            self._log.warning(
                "remote retried", setting=self._setting, at=first.url.target, code=lost.failure.error.code
            )
            try:
                second = await self._address(() if is_alone else (first,), deadline)
            except PhalanxError:
                raise lost from None
        return await self._unary(second, path, data, metadata, deadline)

    async def _unary(self, address: _Address, path: str, data: bytes, metadata: Metadata, deadline: float) -> Answered:
        with address.used():
            call = address.channel.unary_unary(path)(
                data, metadata=(*self._credential, *metadata), timeout=_left(deadline)
            )
            try:
                answer = await call
            except grpc.aio.AioRpcError as error:
                raise self._lost(error.code(), error.trailing_metadata(), address, path) from None
            finally:
                call.cancel()
            trailing = metadata_of(await call.trailing_metadata())
            return Answered(answer, used_of(trailing), trailing)

    async def stream(self, path: str, requests: AsyncIterator[bytes], metadata: Metadata) -> AsyncIterator[Answered]:
        """Send requests as they come and yield the answers, then what all has used with no data. Never tried twice.

        An error of `requests` is raised once what was sent before it is answered. Raises as `unary` does.
        """
        address = await self._address((), math.inf)
        with address.used():
            call = address.channel.stream_stream(path)(metadata=(*self._credential, *metadata))
            sending = asyncio.create_task(_send(call, requests))
            try:
                while (data := await call.read()) is not grpc.aio.EOF:
                    yield Answered(bytes(data), None)
                status = await call.code()
                trailing = await call.trailing_metadata()
                if status is not grpc.StatusCode.OK:
                    raise self._lost(status, trailing, address, path)
                if sending.done() and (error := sending.exception()) is not None:
                    raise error
                yield Answered(None, used_of(metadata_of(trailing)))
            except grpc.aio.AioRpcError as error:
                raise self._lost(error.code(), error.trailing_metadata(), address, path) from None
            finally:
                sending.cancel()
                call.cancel()
                await asyncio.gather(sending, return_exceptions=True)

    async def ping(self) -> None:
        """Raise `Unavailable` unless a worker says that it serves."""
        found = await asyncio.gather(*map(self._is_serving, self._addresses))
        if not any(found):
            raise Unavailable(f"{self._setting}: none of {len(found)} addresses has a worker that serves")

    async def _is_serving(self, address: _Address) -> bool:
        try:
            if not await address.connect(CONNECT_S):
                return False
            check = address.channel.unary_unary(
                HEALTH, request_serializer=HealthCheckRequest.SerializeToString,
                response_deserializer=HealthCheckResponse.FromString,
            )  # fmt: skip
            answer = await check(HealthCheckRequest(service=self._service), timeout=PING_S - CONNECT_S)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == HealthCheckResponse.SERVING)

    async def _address(self, tried: Collection[_Address], deadline: float) -> _Address:
        """Return the least busy address that is connected, or can be. Raises `Unavailable` and `DeadlineExceeded`."""
        left = [one for one in self._addresses if one not in tried]
        while open_to_us := [one for one in left if one.breaker.admits()]:
            address = min(open_to_us, key=lambda one: (one.under_way, one.taken_at))
            left.remove(address)
            within = _left(deadline)
            if await address.connect(CONNECT_S if within is None else min(CONNECT_S, within)):
                return address
            address.breaker.begin()
            address.breaker.failed()
            self._log.warning("remote unreachable", setting=self._setting, at=address.url.target)
        wait = min((one.breaker.left_s() for one in self._addresses), default=0.0)
        count = len(self._addresses)
        said = "no worker answers there" if count == 1 else f"none of the {count} addresses answers"
        raise Unavailable(f"{self._setting}: {said}", retry_after_s=max(1.0, wait))

    def _lost(self, status: grpc.StatusCode, trailing: Any, address: _Address, path: str) -> Lost:
        said = metadata_of(trailing)
        failure = failure_of(status, said, setting=self._setting, method=path.rpartition(".")[2])
        if failure.error.row.http == UpstreamFailed.row.http or failure.is_lost:
            self._log.warning(
                "remote failed", setting=self._setting, at=address.url.target, method=path, status=status.name,
                detail=failure.error.detail,
            )  # fmt: skip
        return Lost(failure, used_of(said))


async def _send(call: Any, requests: AsyncIterator[bytes]) -> None:
    """Write requests to a call until they or the call end; the call's own end is for who reads it."""
    try:
        async for data in requests:
            try:
                await call.write(data)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                return
    finally:
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await call.done_writing()


def _left(deadline: float) -> float | None:
    """Return the seconds until a deadline; None for none. Raises `DeadlineExceeded`."""
    if deadline == math.inf:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise DeadlineExceeded("the deadline passed before another worker could be asked")
    return left


def _credentials(tls: ClientTls) -> Any:
    def read(path: Path | None) -> bytes | None:
        return path.read_bytes() if path is not None else None

    return grpc.ssl_channel_credentials(read(tls.authorities), read(tls.key), read(tls.certificate))
