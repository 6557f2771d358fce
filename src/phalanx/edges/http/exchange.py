"""One HTTP request and its answer: ids, headers, timing, the canonical log line."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from phalanx.edges.call_facts import log_line, server_timing
from phalanx.edges.fields import Field
from phalanx.edges.http.codec import JSON, media_type
from phalanx.edges.http.problems import PROBLEM_JSON, problem_body
from phalanx.edges.http.security import NO_STORE
from phalanx.edges.json_body import encode_json
from phalanx.edges.limit_headers import limit_headers
from phalanx.edges.request_id import request_id
from phalanx.errors import PhalanxError
from phalanx.services.ticket import Call

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AnswerAtOnce = Callable[[int, list[Field], bytes], bool]
Envelope = Callable[[PhalanxError, str], Any]
"""An error and the request id to the body that a dialect gives them."""

CLIENT_LEFT = 499


class ClientLeft(Exception):
    """The peer closed the connection before its answer was sent."""


class Exchange:
    """A request under way. The answer is sent by `respond`, or piecewise by `begin`, `write`, `end`.

    `address` is the caller's and `is_secure` says that they came over TLS, as far as is known: an edge behind proxies sets
    both. `extra` are headers for whatever is answered; `caching` is its Cache-Control.
    """

    __slots__ = (
        "_answer_at_once", "_receive", "_send", "address", "body_read", "bytes_in", "bytes_out", "caching", "call", "dialect", "envelope",
        "extra", "headers", "is_secure", "operation", "received_at", "request_id", "request_id_header", "route", "scope",
        "started", "status", "tag",
    )  # fmt: skip

    def __init__(self, scope: Scope, receive: Receive, send: Send, request_id_header: bytes) -> None:
        self.scope = scope
        self._receive = receive
        self._send = send
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.request_id_header = request_id_header
        self.request_id = request_id(self.headers.get(request_id_header))
        extension = scope.get("extensions", {}).get("phalanx", {})
        self.received_at: float = extension.get("received_at") or time.perf_counter()
        self._answer_at_once: AnswerAtOnce | None = extension.get("answer_at_once")
        self.address = self.peer
        self.is_secure: bool = scope.get("scheme") == "https"
        self.extra: tuple[Field, ...] = ()
        self.caching = NO_STORE
        self.route = ""
        self.operation = ""
        self.dialect = ""
        self.envelope: Envelope = problem_body
        self.call: Call | None = None
        self.status = 0
        self.tag = "ok"
        self.started = False
        self.body_read = False
        self.bytes_in = 0
        self.bytes_out = 0

    @property
    def method(self) -> str:
        """The request's method, in upper case."""
        return str(self.scope["method"])

    @property
    def path(self) -> str:
        """The request's path, decoded, without the query."""
        return str(self.scope["path"])

    @property
    def peer(self) -> str:
        """The address at the other end of the connection; empty when it has none."""
        client = self.scope.get("client")
        return str(client[0]) if client else ""

    @property
    def media_type(self) -> str:
        """The body's content type without parameters, in lower case."""
        return media_type(self.headers)

    def accepts(self, media: str) -> bool:
        """Whether the Accept header names a media type."""
        return media.encode() in self.headers.get(b"accept", b"").lower()

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives. Raises `ClientLeft`."""
        more = not self.body_read
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientLeft
            chunk = message.get("body", b"")
            self.bytes_in += len(chunk)
            more = message.get("more_body", False)
            self.body_read = not more
            yield chunk

    async def respond(
        self, status: int, body: bytes, content_type: str = JSON, extra: Iterable[Field] | None = None
    ) -> None:
        """Send a whole answer."""
        headers = self._headers(extra)
        headers.append((b"content-type", content_type.encode()))
        headers.append((b"content-length", b"%d" % len(body)))
        sent = b"" if self.method == "HEAD" else body
        self.bytes_out += len(body)
        if self._answer_at_once is not None and self._answer_at_once(status, headers, sent):
            self.status, self.started = status, True
            return
        await self._start(status, headers)
        await self._send({"type": "http.response.body", "body": sent})

    async def respond_json(self, status: int, value: Any, extra: Iterable[Field] | None = None) -> None:
        """Send a struct, a dict or a list as JSON."""
        await self.respond(status, encode_json(value), extra=extra)

    async def respond_empty(self, status: int, extra: Iterable[Field]) -> None:
        """Send an answer without content. To 204 and 304 no length belongs (RFC 9110 §8.6)."""
        headers = self._headers(extra)
        if status not in (204, 304):
            headers.append((b"content-length", b"0"))
        await self._start(status, headers)
        await self._send({"type": "http.response.body", "body": b""})

    async def begin(self, status: int, content_type: str) -> None:
        """Send the head of a streamed answer. Proxies are told not to buffer it."""
        extra = ((b"content-type", content_type.encode()), (b"x-accel-buffering", b"no"))
        await self._start(status, self._headers(extra))

    async def write(self, data: bytes) -> None:
        """Send a piece of a streamed answer; waits while the peer does not read."""
        self.bytes_out += len(data)
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        """End a streamed answer."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def fail(self, error: PhalanxError) -> None:
        """Send an error in the envelope of the route's dialect. A body that was not read is not waited for."""
        self.tag = error.code
        self.caching = NO_STORE
        extra: list[Field] = []
        if error.retry_after_s is not None:
            extra.append((b"retry-after", b"%d" % max(1, -int(-error.retry_after_s // 1))))
        if error.row.http == 401:
            extra.append((b"www-authenticate", b"Bearer"))
        if "allow" in error.data:
            extra.append((b"allow", str(error.data["allow"]).encode()))
        announced = self.headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in self.headers
        if announced and not self.body_read:
            extra.append((b"connection", b"close"))
        body = encode_json(self.envelope(error, self.request_id))
        content_type = PROBLEM_JSON if self.envelope is problem_body else JSON
        await self.respond(error.row.http, body, content_type, extra)

    async def _start(self, status: int, headers: list[Field]) -> None:
        self.status = status
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    def _headers(self, extra: Iterable[Field] | None) -> list[Field]:
        headers = [
            (self.request_id_header, self.request_id.encode()),
            (b"server-timing", server_timing(self.call, self.received_at).encode()),
            self.caching,
            *self.extra,
        ]
        call = self.call
        if call is not None:
            meter = call.meter
            if meter is not None and meter.model:
                headers.append((b"x-model", meter.model.encode()))
                headers.append((b"x-model-version", meter.model_version.encode()))
            if call.simulated or (meter is not None and meter.simulated):
                headers.append((b"x-simulated", b"true"))
            if call.grant is not None:
                headers += limit_headers(call.grant)
            if call.warning:
                headers.append((b"x-quota-warning", call.warning.encode("ascii", "replace")))
            if call.replayed:
                headers.append((b"idempotency-replayed", b"true"))
        if extra:
            headers += extra
        return headers

    def log_line(self) -> dict[str, Any]:
        """Return the fields of the canonical line."""
        return log_line(
            self, method=self.method, route=self.route, operation=self.operation, dialect=self.dialect,
            status=self.status or CLIENT_LEFT, peer="" if self.peer == self.address else self.peer,
        )  # fmt: skip
