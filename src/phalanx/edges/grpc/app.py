"""The gRPC edge: each row a method, admitted, read, run and billed by `call()` like everywhere."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import grpc

from phalanx.edges.grpc.emptiness import empty_lists
from phalanx.edges.grpc.exchange import Exchange
from phalanx.edges.grpc.schema import Method, Schema
from phalanx.edges.grpc.status import brief, error_metadata, status_code
from phalanx.errors import (
    Cancelled,
    DeadlineExceeded,
    Internal,
    InvalidRequest,
    NotFound,
    PhalanxError,
    RequestTimeout,
    TlsRequired,
    TooLarge,
)
from phalanx.operations import Entrance, Kind, Operation, Stream, call
from phalanx.telemetry import Log, Metrics, RequestLog

WHAT_TLS_MEANS = (
    "this worker is called over TLS only; what was sent went unencrypted, so replace any key, token or password in it"
)


class StalledReader(Exception):
    """The caller took nothing of a stream for too long."""


class GrpcEdge(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Finds the row of a method and answers. `max_body_bytes` is the limit of a row's messages; times are in seconds.

    A message is waited for `read_timeout_s`, and `write_timeout_s` until the caller takes one. `refuse_clear` sends away
    everybody: the edge has no TLS where the settings demand it. `elsewhere` are rows that this worker does not serve: who
    asks is told so. `services` are the full names of those that it does.
    """

    def __init__(
        self,
        entrance: Entrance,
        operations: Mapping[str, Operation],
        schema: Schema,
        *,
        elsewhere: Mapping[str, Operation] | None = None,
        metrics: Metrics,
        log: Log,
        requests: RequestLog | None = None,
        max_body_bytes: Callable[[Operation], int],
        request_id_header: str = "X-Request-Id",
        read_timeout_s: float = 15.0,
        write_timeout_s: float = 30.0,
        refuse_clear: bool = False,
        on_finished: Callable[[str, str, float], None] = lambda operation, code, ms: None,
        on_refused: Callable[[str], None] = lambda code: None,
    ) -> None:
        self.schema = schema
        self.max_message_bytes = max(max_body_bytes(row) for row in operations.values())
        self._entrance = entrance
        self._metrics = metrics
        self._log = log
        self._requests = requests or RequestLog(log)
        self._id_name = request_id_header.lower()
        self._read_timeout_s = read_timeout_s
        self._write_timeout_s = write_timeout_s
        self._refuse_clear = refuse_clear
        self._on_finished = on_finished
        self._on_refused = on_refused
        self._children: dict[tuple[str, str], tuple[Any, Any]] = {}
        here = {name: method for name, method in schema.methods.items() if name in operations}
        self.services = tuple(sorted({method.service for method in here.values()}))
        self._handlers = {
            method.path: self._handler(operations[name], method, max_body_bytes(operations[name]))
            for name, method in here.items()
        }
        for name, row in (elsewhere or {}).items():
            if name in schema.methods:
                self._handlers[schema.methods[name].path] = self._refusal(row)

    def service(self, handler_call_details: Any) -> Any:
        """Return what handles a method; None for one that is not known here."""
        return self._handlers.get(handler_call_details.method)

    def _handler(self, row: Operation, method: Method, limit: int) -> Any:
        """Return the handler of a row. One message or many, it reads when it wants to: a stranger's is never read."""

        async def answer_one(messages: Any, context: Any) -> bytes:
            return await self._answer(context, row, lambda exchange: self._unary(exchange, method, limit)) or b""

        async def answer_many(messages: Any, context: Any) -> None:
            await self._answer(context, row, lambda exchange: self._stream(exchange, method, limit))

        if row.kind is Kind.UNARY:
            return grpc.stream_unary_rpc_method_handler(answer_one)
        return grpc.stream_stream_rpc_method_handler(answer_many)

    def _refusal(self, row: Operation) -> Any:
        async def refuse(exchange: Exchange) -> bytes:
            raise NotFound(f"this worker does not have the service {row.service!r}, which {row.name} is part of")

        async def answer(messages: Any, context: Any) -> bytes:
            # The method is what is not here, which gRPC has a status of its own for; proxies try another worker by it.
            return await self._answer(context, row, refuse, grpc.StatusCode.UNIMPLEMENTED) or b""

        return grpc.stream_unary_rpc_method_handler(answer)

    async def _answer(
        self, context: Any, row: Operation, work: Callable[[Exchange], Any], failed: grpc.StatusCode | None = None
    ) -> bytes | None:
        """Run one call to its end, whatever that is; `failed` is the status of every error, by default its own."""
        exchange = Exchange(context, row, self._id_name)
        error: PhalanxError
        try:
            try:
                answer: bytes | None = await work(exchange)
                exchange.status = "OK"
                context.set_trailing_metadata(exchange.metadata())
                return answer
            except PhalanxError as failure:
                error = failure
            except StalledReader:
                self._on_refused("stalled_reader")
                error = DeadlineExceeded(f"nothing of the answer was taken for {self._write_timeout_s:g} s")
            except asyncio.CancelledError:
                exchange.tag = Cancelled.row.code if context.time_remaining() != 0 else DeadlineExceeded.row.code
                raise
            except Exception as bug:
                self._log.error("bug", request_id=exchange.request_id, route=row.grpc, exc_info=bug)
                error = Internal()
            exchange.tag, code = error.code, failed or status_code(error)
            exchange.status = code.name
            trailing = (*exchange.metadata(), *error_metadata(error, exchange.request_id, code))
            await context.abort(code, brief(error), trailing)
            return None
        finally:
            self._finish(exchange)

    async def _unary(self, exchange: Exchange, method: Method, limit: int) -> bytes:
        inbound = self._admitted(exchange)

        async def read() -> Any:
            data = await self._message(exchange, limit)
            if data is None:
                raise InvalidRequest("no message was sent; a call of this method has one")
            if inbound.idempotency_key is not None:
                inbound.fingerprint = hashlib.sha256(b"\0".join((method.path.encode(), data))).digest()
            return method.read(data)

        response = await call(self._entrance, exchange.operation, inbound, read)
        answer = method.write(response)
        exchange.bytes_out = len(answer)
        if inbound.on_behalf_of:
            exchange.empty = empty_lists(response)
        return answer

    async def _stream(self, exchange: Exchange, method: Method, limit: int) -> None:
        inbound = self._admitted(exchange)
        context = exchange.context

        async def messages() -> AsyncIterator[Any]:
            while (data := await self._message(exchange, limit)) is not None:
                yield method.read(data)

        async def read() -> Any:
            if exchange.operation.kind is Kind.CLIENT_STREAM:
                return messages()
            data = await self._message(exchange, limit)
            if data is None:
                raise InvalidRequest("no message was sent; a call of this method has one")
            return method.read(data)

        stream: Stream = await call(self._entrance, exchange.operation, inbound, read)
        try:
            async for response in stream:
                data = method.write(response)
                exchange.bytes_out += len(data)
                await self._write(context, data)
        finally:
            await stream.aclose()

    def _admitted(self, exchange: Exchange) -> Any:
        if self._refuse_clear:
            raise TlsRequired(WHAT_TLS_MEANS)
        return exchange.open_call()

    async def _message(self, exchange: Exchange, limit: int) -> bytes | None:
        """Return the next message, None after the last. Raises `RequestTimeout` and `TooLarge`."""
        try:
            async with asyncio.timeout(self._read_timeout_s):
                data = await exchange.context.read()
        except TimeoutError:
            raise RequestTimeout(f"no message came for {self._read_timeout_s:g} s") from None
        if data is grpc.aio.EOF:
            return None
        exchange.bytes_in += len(data)
        if len(data) > limit:
            raise TooLarge(f"the message has {len(data)} bytes, {limit} are allowed")
        return bytes(data)

    async def _write(self, context: Any, data: bytes) -> None:
        try:
            async with asyncio.timeout(self._write_timeout_s):
                await context.write(data)
        except TimeoutError:
            raise StalledReader from None

    def _finish(self, exchange: Exchange) -> None:
        line = exchange.log_line()
        labels = (exchange.operation.name, exchange.tag)
        children = self._children.get(labels)
        if children is None:
            children = self._children[labels] = (
                self._metrics.counter("phalanx_requests", labels[0], "grpc", labels[1]),
                self._metrics.histogram("phalanx_request_seconds", labels[0]),
            )
        children[0].inc()
        children[1].observe(line["ms"] / 1e3)
        self._on_finished(exchange.operation.name, exchange.tag, line["ms"])
        self._requests.write(line)
