"""A server on a free loopback port, and a peer that speaks to it in bytes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
import pytest
import uvloop

from phalanx.edges.http.connections import ConnectionLimits
from phalanx.edges.http.server import HttpServer

SHORT_S = 0.2
PATIENCE_S = 5.0


class RecordedLog:
    """A log that keeps its events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def info(self, event: str, **fields: Any) -> None:
        self.events.append((event, fields))

    warning = error = info

    def named(self, event: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.events if name == event]


class Answer(msgspec.Struct):
    """An answer as it was read."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class Peer:
    """One raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self, method: str = "GET") -> Answer:
        """Read one answer, whole."""
        async with asyncio.timeout(PATIENCE_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            line, *fields = head.strip().split("\r\n")
            headers = {name.lower(): value.strip() for name, value in (field.split(":", 1) for field in fields)}
            status = int(line.split()[1])
            if status == 100 or method == "HEAD":
                body = b""
            elif headers.get("transfer-encoding") == "chunked":
                body = await self._chunks()
            else:
                body = await self.reader.readexactly(int(headers["content-length"]))
            return Answer(status, headers, body)

    async def _chunks(self) -> bytes:
        body = b""
        while size := int(await self.reader.readline(), 16):
            body += await self.reader.readexactly(size)
            await self.reader.readline()
        await self.reader.readline()
        return body

    async def rest(self) -> bytes:
        """Read until the server closes; a reset counts as an end."""
        async with asyncio.timeout(PATIENCE_S):
            with contextlib.suppress(ConnectionResetError):
                return await self.reader.read()
            return b""

    def leave(self) -> None:
        self.writer.close()


class Served:
    """A running server, its log and its refusals."""

    def __init__(self, server: HttpServer, log: RecordedLog, refused: list[str]) -> None:
        self.server, self.log, self.refused = server, log, refused
        self.peers: list[Peer] = []

    async def connect(self, *, receive_buffer: int | None = None, **how: Any) -> Peer:
        end = socket.socket()
        if receive_buffer is not None:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        end.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(end, ("127.0.0.1", self.server.port))
        except OSError:
            end.close()
            raise
        limit = 2**16 if receive_buffer is None else receive_buffer
        peer = Peer(*await asyncio.open_connection(sock=end, limit=limit, **how))
        self.peers.append(peer)
        return peer


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the path and the body; `/none` fails, `/silent` says nothing."""
    body = b""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        more = message["more_body"]
    if scope["path"] == "/bug":
        raise KeyError("a bug")
    if scope["path"] == "/silent":
        return
    text = scope["path"].encode() + b" " + body
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(text))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else text})


Serve = Callable[..., AbstractAsyncContextManager[Served]]
Run = Callable[[Coroutine[Any, Any, None]], None]


@contextlib.asynccontextmanager
async def _serving(app: Any = echo, *, limits: dict[str, Any] | None = None, **how: Any) -> AsyncIterator[Served]:
    quick = {"read_timeout_s": SHORT_S, "write_timeout_s": SHORT_S, "idle_timeout_s": SHORT_S}
    log, refused = RecordedLog(), list[str]()
    how = dict[str, Any](drain_timeout_s=SHORT_S, on_refused=refused.append) | how
    server = HttpServer(
        app, host="127.0.0.1", port=0, log=log, limits=ConnectionLimits(**(quick | (limits or {}))), **how
    )
    served = Served(server, log, refused)
    await server.start()
    try:
        yield served
    finally:
        for peer in served.peers:
            peer.leave()
        server.hurry()
        await server.drain()


@pytest.fixture
def serve() -> Serve:
    """Return what serves an application on a free port, with all timeouts short unless `limits` says otherwise."""
    return _serving


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Run:
    """Return what runs a test on an event loop: on the product's, and on the standard one."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def run_to_end(work: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(_in_time(work))

    return run_to_end


async def _in_time(work: Awaitable[None]) -> None:
    async with asyncio.timeout(20):
        await work
