"""The client of a worker: what it sends, and what it makes of answers that are none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from phalanx.errors import DeadlineExceeded, InvalidRequest, NoFace, Overloaded, Unavailable, UpstreamFailed
from phalanx.settings import Secret
from phalanx.upstreams.worker import WorkerClient, fill_path


class Server:
    """Answers one thing and keeps what it was sent."""

    def __init__(self, status: str, body: bytes, extra: str = "") -> None:
        self.answer = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{extra}\r\n".encode() + body
        self.sent = b""
        self.under_way: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.under_way.add(task)
        try:
            await self.respond(reader, writer)
        finally:
            writer.close()
            await writer.wait_closed()

    async def respond(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.sent = await reader.readuntil(b"\r\n\r\n")
        writer.write(self.answer)
        await writer.drain()


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[str]:
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listening:
        try:
            yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        finally:
            await asyncio.gather(*server.under_way)


def ask(server: Server, *, root: str = "", timeout_s: float = 5.0) -> bytes:
    async def once() -> bytes:
        async with serving(server) as url, WorkerClient(url + root, Secret("fe_key"), timeout_s=timeout_s) as client:
            return await client.call("POST", "/v1/faces/detect", b"{}")

    return asyncio.run(once())


def test_the_key_goes_along() -> None:
    server = Server("200 OK", b'{"a":1}')
    assert ask(server, root="/behind/") == b'{"a":1}'
    assert server.sent.startswith(b"POST /behind/v1/faces/detect HTTP/1.1")
    assert b"Authorization: Bearer fe_key\r\n" in server.sent


def test_a_problem_is_raised_as_what_it_is() -> None:
    with pytest.raises(NoFace, match="none here"):
        ask(Server("422 X", b'{"code":"no_face","detail":"none here"}'))
    with pytest.raises(Overloaded) as caught:
        ask(Server("503 X", b'{"code":"overloaded","detail":"full"}', "Retry-After: 7\r\n"))
    assert caught.value.retry_after_s == 7


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"code":"no_such"}', b'{"code":[1]}', b"", b"\xff"])
def test_what_is_no_workers_answer(body: bytes) -> None:
    with pytest.raises(UpstreamFailed, match="answered 502"):
        ask(Server("502 X", body))


def test_redirections_are_not_followed() -> None:
    with pytest.raises(UpstreamFailed):
        ask(Server("302 X", b"", "Location: http://elsewhere.example/\r\n"))


def test_nobody_answers() -> None:
    async def once() -> None:
        async with WorkerClient("http://127.0.0.1:1") as client:
            await client.call("GET", "/v1/models", None)

    with pytest.raises(Unavailable, match="no worker answers at"):
        asyncio.run(once())


def test_a_worker_that_is_silent() -> None:
    class Silent(Server):
        async def respond(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()

    with pytest.raises(DeadlineExceeded):
        ask(Silent("200 OK", b""), timeout_s=0.2)


@pytest.mark.parametrize("url", ["", "worker", "ftp://worker", "http://", "http://[::1", "file:///etc/passwd"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(InvalidRequest, match="is no worker's address"):
        WorkerClient(url)


def test_parameters_go_into_the_path() -> None:
    path, rest = fill_path("/v1/collections/{name}/persons/{id}", {"name": "a b", "id": "x/../y?", "limit": 3})
    assert (path, rest) == ("/v1/collections/a%20b/persons/x%2F..%2Fy%3F", {"limit": 3})
