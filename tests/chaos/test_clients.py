"""Clients write down what they saw, and no more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from chaos.clients import Caller, Client, Record, Reply

ANN = Caller("fe_secret", "key-1", "ann@example.org")
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Place:
    """A worker at some port, or at none."""

    name = "worker-1"

    def __init__(self, port: int | None) -> None:
        self.port = port

    def where(self) -> tuple[str, int] | None:
        return None if self.port is None else ("127.0.0.1", self.port)


def answer(status: int, body: bytes, fields: bytes = b"") -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n%b\r\n%b" % (status, len(body), fields, body)


def ask(record: Record, serve: Serve, times: int = 1, leave_after_s: float | None = None) -> list[Reply]:
    """Ask a server of ours by one client."""

    async def scenario() -> list[Reply]:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await serve(reader, writer)
            finally:
                writer.close()

        async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
            place, client = Place(server.sockets[0].getsockname()[1]), Client(record)
            try:
                return [
                    await client.ask(place, "POST", "/x", {"a": 1}, caller=ANN, leave_after_s=leave_after_s)
                    for _ in range(times)
                ]
            finally:
                await client.close()

    return asyncio.run(scenario())


async def read_call(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(len(b'{"a": 1}'))
    return head


def test_an_answered_call() -> None:
    """With its times, its ids, and the name of a failure; the next call goes over the same connection."""
    record, heads = Record("t"), list[bytes]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for reply in (answer(200, b"{}"), answer(503, b'{"code": "overloaded"}', b"Connection: close\r\n")):
            heads.append(await read_call(reader))
            writer.write(reply)

    assert [(reply.status, reply.keeps) for reply in ask(record, serve, 2)] == [(200, True), (503, False)]
    assert b"X-Request-Id: t-000001\r\n" in heads[0]
    assert b"Authorization: Bearer fe_secret\r\n" in heads[0]
    first, second = record.calls
    assert (first.request_id, first.status, first.credential, first.organisation) == (
        "t-000001",
        200,
        "key-1",
        ANN.organisation,
    )
    assert first.sent_at <= first.ended_at <= second.sent_at
    assert (second.status, second.code, second.left, record.in_flight()) == (503, "overloaded", False, frozenset())


@pytest.mark.parametrize(
    "said", [b"", b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"]
)
def test_a_call_that_is_cut_off(said: bytes) -> None:
    """Half an answer is none."""
    record = Record("t")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_call(reader)
        writer.write(said)

    assert [reply.status for reply in ask(record, serve)] == [0]
    (call,) = record.calls
    assert (call.is_answered, call.left) == (False, False)


def test_a_call_whose_client_left() -> None:
    """It is under way until then, in that worker."""
    record, seen = Record("t"), list[frozenset[str]]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_call(reader)
        seen.extend((record.in_flight(), record.in_flight("worker-1"), record.in_flight("worker-2")))
        await asyncio.sleep(0.2)

    ask(record, serve, leave_after_s=0.05)
    (call,) = record.calls
    assert (call.is_answered, call.left) == (False, True)
    assert seen == [{"t-000001"}, {"t-000001"}, frozenset()]


def test_who_cannot_be_reached_gets_no_call() -> None:
    """Nobody listens, or the port is not known."""
    record = Record("t")

    async def scenario() -> None:
        client = Client(record)
        for place in (Place(None), Place(1)):
            assert (await client.ask(place, "GET", "/x", caller=ANN)).status == 0

    asyncio.run(scenario())
    assert record.calls == []
