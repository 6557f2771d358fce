"""Endpoints made from rows: canonical ones for every row, dialect ones for every dialect route."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Any

from phalanx.edges.credentials import credential_of
from phalanx.edges.http.codec import (
    NDJSON,
    OCTETS,
    SSE,
    RequestCodec,
    check_encoding,
    check_length,
    decode_image,
    decode_vectors,
    encode_vectors,
    is_image,
    is_vectors,
    parse_query,
    read_lines,
    read_whole,
    unsupported,
)
from phalanx.edges.http.cors import VARY
from phalanx.edges.http.dialects import DialectRoute
from phalanx.edges.http.exchange import Exchange
from phalanx.edges.http.image_answers import as_accepted, wants_image
from phalanx.edges.http.problems import problem_of
from phalanx.edges.json_body import BodyDecoder, encode_json
from phalanx.errors import InvalidRequest, PhalanxError
from phalanx.operations import Body, Entrance, Kind, Operation, Stream, call
from phalanx.services.ticket import Call

MAX_IDEMPOTENCY_KEY_CHARS = 255
REVALIDATE = (b"cache-control", b"private, max-age=60")


def _open_call(exchange: Exchange) -> Call:
    inbound = Call(credential_of(exchange.headers, exchange.address), exchange.request_id)
    key = exchange.headers.get(b"idempotency-key")
    if key is not None and exchange.method == "POST":
        if not 0 < len(key) <= MAX_IDEMPOTENCY_KEY_CHARS or not key.isascii():
            raise InvalidRequest(f"Idempotency-Key must have 1 to {MAX_IDEMPOTENCY_KEY_CHARS} ASCII characters")
        inbound.idempotency_key = key.decode()
    exchange.call = inbound
    return inbound


def _fingerprint(inbound: Call, *parts: bytes) -> None:
    if inbound.idempotency_key is not None:
        inbound.fingerprint = hashlib.sha256(b"\0".join(parts)).digest()


class OperationEndpoint:
    """The canonical route of a row."""

    def __init__(self, entrance: Entrance, operation: Operation, *, max_body_bytes: int) -> None:
        self._entrance = entrance
        self._operation = operation
        self._codec = RequestCodec(operation)
        self._max_body_bytes = max_body_bytes

    async def __call__(self, exchange: Exchange, params: dict[str, str]) -> None:
        """Answer one request."""
        inbound = _open_call(exchange)
        body = Body.NONE

        async def read() -> Any:
            nonlocal body
            body = self._codec.check(exchange.headers)
            if self._operation.kind is Kind.CLIENT_STREAM:
                return self._messages(exchange)
            data = b""
            if body is not Body.NONE:
                check_length(exchange.headers, self._max_body_bytes)
                data = await read_whole(exchange.chunks(), self._max_body_bytes)
            query = exchange.scope["query_string"]
            _fingerprint(inbound, exchange.path.encode(), query, data)
            request = await self._codec.decode(body, data, exchange.headers, params, query)
            return as_accepted(exchange, self._operation, request)

        response = await call(self._entrance, self._operation, inbound, read)
        if isinstance(response, Stream):
            await _send_stream(
                exchange, response, default=NDJSON if self._operation.kind is Kind.CLIENT_STREAM else SSE
            )
        elif wants_image(exchange, self._operation) and response.image is not None:
            await exchange.respond(200, response.image, f"image/{response.format}")
        elif body is Body.VECTORS:
            await exchange.respond(200, encode_vectors(response), OCTETS)
        elif self._operation.cache == "revalidate":
            await _send_revalidated(exchange, encode_json(response))
        else:
            await exchange.respond(self._operation.status, encode_json(response))

    async def _messages(self, exchange: Exchange) -> AsyncIterator[Any]:
        async for line in read_lines(exchange.chunks(), self._max_body_bytes):
            yield self._codec.line(line)


class DialectEndpoint:
    """A dialect's route around a row."""

    def __init__(self, entrance: Entrance, route: DialectRoute, operation: Operation, *, max_body_bytes: int) -> None:
        self._entrance = entrance
        self._route = route
        self._operation = operation
        self._decoder = BodyDecoder(route.wire)
        self._max_body_bytes = max_body_bytes

    async def __call__(self, exchange: Exchange, params: dict[str, str]) -> None:
        """Answer one request."""
        inbound = _open_call(exchange)
        route = self._route
        wire: Any = None
        as_vectors = is_vectors(exchange.media_type, self._operation)

        async def read() -> Any:
            nonlocal wire
            kind = exchange.media_type
            as_image = Body.IMAGE in self._operation.bodies and is_image(kind)
            as_raw = as_image or as_vectors
            if not as_raw and route.strict_media_type and kind != "application/json" and not kind.endswith("+json"):
                raise unsupported(kind, self._operation.bodies)
            check_encoding(exchange.headers)
            check_length(exchange.headers, self._max_body_bytes)
            data = await read_whole(exchange.chunks(), self._max_body_bytes)
            query = exchange.scope["query_string"]
            _fingerprint(inbound, route.path.encode(), *((query,) if as_raw else ()), data)
            if as_image:
                wire = await decode_image(route.wire, data, exchange.headers, parse_query(query))
            elif as_vectors:
                wire = decode_vectors(route.wire, data, parse_query(query))
            else:
                wire = await self._decoder.decode(data)
            return as_accepted(exchange, self._operation, route.decode(wire))

        response = await call(self._entrance, self._operation, inbound, read)
        if wants_image(exchange, self._operation) and response.image is not None:
            await exchange.respond(200, response.image, f"image/{response.format}")
            return
        answer = route.encode(wire, response, inbound)
        if as_vectors:
            await exchange.respond(200, encode_vectors(answer), OCTETS)
        else:
            await exchange.respond(200, encode_json(answer))


async def _send_revalidated(exchange: Exchange, body: bytes) -> None:
    """Send an answer that the client may keep, or 304 when it has it."""
    etag = b'"' + hashlib.sha256(body).hexdigest()[:32].encode() + b'"'
    exchange.caching = REVALIDATE
    # What a page may read of it must not be kept for another.
    extra = [(b"etag", etag), *(() if VARY in exchange.extra else (VARY,))]
    known = [tag.strip().removeprefix(b"W/") for tag in exchange.headers.get(b"if-none-match", b"").split(b",")]
    if etag in known or b"*" in known:
        await exchange.respond_empty(304, extra)
    else:
        await exchange.respond(200, body, extra=extra)


async def _send_stream(exchange: Exchange, stream: Stream, *, default: str) -> None:
    """Send each message as it comes, as server-sent events or as lines of JSON.

    The first message is waited for before the head is sent, so that an error until then has its own status; a later
    one ends the stream as a last event `error`, or as a last line with the problem under `error`.
    """
    events = exchange.accepts(SSE) or (default == SSE and not exchange.accepts(NDJSON))
    try:
        first = await anext(stream, None)
        await exchange.begin(200, SSE if events else NDJSON)
        if first is not None:
            await exchange.write(_frame(encode_json(first), events))
            try:
                async for message in stream:
                    await exchange.write(_frame(encode_json(message), events))
            except PhalanxError as error:
                exchange.tag = error.code
                problem = problem_of(error, exchange.request_id)
                failure = b"event: error\ndata: %b\n\n" if events else b'{"error":%b}\n'
                await exchange.write(failure % encode_json(problem))
                await exchange.end()
                return
        if events:
            await exchange.write(b"event: done\ndata: {}\n\n")
        await exchange.end()
    finally:
        await stream.aclose()


def _frame(message: bytes, events: bool) -> bytes:
    return b"data: %b\n\n" % message if events else message + b"\n"
