"""Other workers, called over gRPC: several addresses of one service, the least busy first.

Messages are bytes here; who composes the worker knows what they mean.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import grpc

from phalanx.errors import DeadlineExceeded, NotFound, PhalanxError, Unavailable, UpstreamFailed
from phalanx.settings import Secret
from phalanx.settings.remote import ServiceUrl
from phalanx.telemetry import Log
from phalanx.upstreams.remote_address import CONNECT_S, Address, ClientTls, Lost
from phalanx.upstreams.remote_answers import Used, failure_of, metadata_of, used_of

PING_S = 1.5
COME_BACK_S = 5.0
"""After so long at most a caller is told to come back, however long the pause is: a worker that is back is asked sooner."""
Metadata = Sequence[tuple[str, str]]


class Answered(NamedTuple):
    """An answer's bytes, None at the end of a stream; and what all has used, None when the other worker did not say.

    `metadata` are all that came with an answer to a unary call.
    """

    data: bytes | None
    used: Used | None
    metadata: Mapping[str, Any] = MappingProxyType({})


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
        self._addresses = [Address(url, tls or ClientTls()) for url in urls]
        self._credential = (("authorization", f"Bearer {key}"),) if key else ()
        self._log = log

    async def close(self) -> None:
        """End all connections."""
        await asyncio.gather(*(address.channel.close() for address in self._addresses))

    async def unary(
        self, path: str, data: bytes, metadata: Metadata, deadline: float, *, removes: bool = False
    ) -> Answered:
        """Call once; a second time, on another address if there is one, where the first worker went away or has no room.

        What `removes` may be done when its worker goes away: that nothing is there then is no answer to the caller.

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
            try:
                return await self._unary(second, path, data, metadata, deadline)
            except Lost as again:
                may_be_done = removes and isinstance(lost.failure.error, Unavailable)
                if may_be_done and isinstance(again.failure.error, NotFound):
                    raise lost from None
                raise

    async def _unary(self, address: Address, path: str, data: bytes, metadata: Metadata, deadline: float) -> Answered:
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

    async def _is_serving(self, address: Address) -> bool:
        try:
            if not await address.connect(CONNECT_S):
                return False
            return await address.health(self._service, PING_S - CONNECT_S) == "SERVING"
        except grpc.aio.AioRpcError:
            return False

    async def _address(self, tried: Collection[Address], deadline: float) -> Address:
        """Return the least busy address that is connected, or can be. Raises `Unavailable` and `DeadlineExceeded`.

        One that is left alone is asked all the same when there is no other and it has a connection again: a worker that was
        replaced is back before its pause is over, and the next one may be on its way out.
        """
        left = [one for one in self._addresses if one not in tried]
        back = [one for one in left if not one.breaker.admits() and one.is_connected()]
        while open_to_us := [one for one in left if one.breaker.admits()]:
            address = min(open_to_us, key=lambda one: (one.under_way, one.taken_at))
            left.remove(address)
            within = _left(deadline)
            if await address.connect(CONNECT_S if within is None else min(CONNECT_S, within)):
                return address
            address.breaker.begin()
            address.breaker.failed()
            self._log.warning("remote unreachable", setting=self._setting, at=address.url.target)
        if back:
            return min(back, key=lambda one: (one.under_way, one.taken_at))
        wait = min((one.breaker.left_s() for one in self._addresses), default=0.0)
        count = len(self._addresses)
        said = "no worker answers there" if count == 1 else f"none of the {count} addresses answers"
        raise Unavailable(f"{self._setting}: {said}", retry_after_s=min(max(1.0, wait), COME_BACK_S))

    def _lost(self, status: grpc.StatusCode, trailing: Any, address: Address, path: str) -> Lost:
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
