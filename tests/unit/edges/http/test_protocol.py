"""The connection: deadlines, limits, and answers in order, over real sockets."""

from __future__ import annotations

import asyncio
import itertools
import re
import socket
import ssl
import subprocess
import warnings
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.config import Config

from phalanx.edges.http.connections import ConnectionLimits, Connections
from phalanx.edges.http.protocol import Connection
from phalanx.edges.http.server import TlsFiles


class SilentLog:
    """A log that keeps nothing."""

    def info(self, event: str, **fields: Any) -> None: ...

    warning = error = info


async def echo(scope: Any, receive: Any, send: Any) -> None:
    body = b""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        more = message["more_body"]
    text = scope["path"].encode() + b" " + body
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(text))]})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else text})


GET = b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n"
LONG = {"read_timeout_s": 5.0, "write_timeout_s": 5.0, "idle_timeout_s": 5.0}


def assert_problem(answer: Any, status: int, code: str) -> None:
    assert answer.status == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["connection"] == "close"
    assert answer.headers["server-timing"].startswith("queue;dur=0.000, engine;dur=0.000, total;dur=")
    problem = answer.json()
    assert {name: problem[name] for name in ("status", "code")} == {"status": status, "code": code}
    assert set(problem) == {"type", "title", "status", "detail", "code", "request_id"}
    assert problem["request_id"] == answer.headers["x-request-id"]


def test_a_connection_that_sends_nothing_gets_408(run: Any, serve: Any) -> None:
    async def check() -> None:
        async with serve() as served:
            peer = await served.connect()
            began = perf_counter()
            assert_problem(await peer.answer(), 408, "request_timeout")
            assert 0.19 <= perf_counter() - began < 4
            assert await peer.rest() == b""
            assert served.refused == ["request_timeout"]
            assert served.log.named("refused")[0]["status"] == 408

    run(check())


def test_a_head_that_drips_gets_408_however_steady(run: Any, serve: Any) -> None:
    async def check() -> None:
        async with serve() as served:
            peer = await served.connect()
            reading = asyncio.ensure_future(peer.answer())
            sent = 0
            for byte in b"GET / HTTP/1.1\r\nhost: somewhere-far-away-and-slow":
                if reading.done():
                    break
                peer.send(bytes([byte]))
                sent += 1
                await asyncio.sleep(0.02)
            assert_problem(await reading, 408, "request_timeout")
            assert sent < 30

    run(check())


def test_a_second_head_on_a_kept_connection_has_its_own_deadline(run: Any, serve: Any) -> None:
    async def check() -> None:
        async with serve(limits={"idle_timeout_s": 5.0}) as served:
            peer = await served.connect()
            peer.send(GET)
            assert (await peer.answer()).body == b"/a "
            await asyncio.sleep(0.4)
            peer.send(GET[:10])
            began = perf_counter()
            assert_problem(await peer.answer(), 408, "request_timeout")
            assert 0.19 <= perf_counter() - began < 4

    run(check())


def test_an_idle_connection_is_closed_without_a_word(run: Any, serve: Any) -> None:
    async def check() -> None:
        async with serve(limits={"read_timeout_s": 5.0}) as served:
            peer = await served.connect()
            peer.send(GET)
            assert (await peer.answer()).status == 200
            began = perf_counter()
            assert await peer.rest() == b""
            assert 0.15 <= perf_counter() - began < 4
            assert served.refused == []

    run(check())


def test_a_body_that_stands_still_gets_408(run: Any, serve: Any) -> None:
    async def check() -> None:
        async with serve() as served:
            peer = await served.connect()
            peer.send(b"POST / HTTP/1.1\r\nx-request-id: mine-1\r\ncontent-length: 10\r\n\r\n12345")
            answer = await peer.answer()
            assert_problem(answer, 408, "request_timeout")
            assert answer.headers["x-request-id"] == "mine-1"
            assert "0.2 s" in answer.json()["detail"]

    run(check())


def test_a_body_that_drips_below_the_floor_gets_408_though_it_never_stands_still(run: Any, serve: Any) -> None:
    async def check() -> None:
        async with serve() as served:
            peer = await served.connect()
            peer.send(b"POST / HTTP/1.1\r\ncontent-length: 1000\r\n\r\n")
            reading = asyncio.ensure_future(peer.answer())
            sent = 0
            while not reading.done() and sent < 200:
                peer.send(b"x")
                sent += 1
                await asyncio.sleep(0.02)
            assert_problem(await reading, 408, "request_timeout")
            assert sent < 40

    run(check())


def test_a_slow_body_above_the_floor_is_taken(run: Any, serve: Any) -> None:
    async def check() -> None:
        # Longer than a window, and eight times the floor: a busy machine may hold this peer up now and then.
        async with serve(limits={"read_timeout_s": 2.0}) as served:
            peer = await served.connect()
            peer.send(b"POST / HTTP/1.1\r\ncontent-length: 10000\r\n\r\n")
            for _ in range(25):
                await asyncio.sleep(0.1)
                peer.send(b"x" * 400)
            assert (await peer.answer()).body == b"/ " + b"x" * 10_000

    run(check())


def test_a_body_that_waits_for_the_application_is_not_called_slow(run: Any, serve: Any) -> None:
    """Past 64 KiB the server stops reading; the peer cannot send, however long the application takes."""

    async def hesitant(scope: Any, receive: Any, send: Any) -> None:
        size, more = 0, True
        while more:
            await asyncio.sleep(0.5 if size == 0 else 0)
            message = await receive()
            size += len(message["body"])
            more = message["more_body"]
        text = b"%d" % size
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-length", b"%d" % len(text))],
            }
        )
        await send({"type": "http.response.body", "body": text})

    async def check() -> None:
        async with serve(hesitant) as served:
            peer = await served.connect()
            peer.send(b"POST / HTTP/1.1\r\ncontent-length: 8000000\r\n\r\n" + b"x" * 8_000_000)
            assert (await peer.answer()).body == b"8000000"

    run(check())


async def flood_of_bytes(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"40000000")]})
    for _ in range(40):
        await send({"type": "http.response.body", "body": b"x" * 1_000_000, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def test_a_reader_that_stalls_is_dropped_and_its_task_told(run: Any, serve: Any) -> None:
    left = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["extensions"]["phalanx"]["on_disconnect"](left.set)
        await flood_of_bytes(scope, receive, send)

    async def check() -> None:
        async with serve(app) as served:
            peer = await served.connect(receive_buffer=4096)
            peer.send(GET)
            began = perf_counter()
            async with asyncio.timeout(10):
                await left.wait()
            assert perf_counter() - began >= 0.19
            assert served.refused == ["stalled_reader"]
            assert served.log.named("stalled reader")[0]["unsent_bytes"] > 0

    run(check())


def test_a_slow_reader_above_the_floor_is_served(run: Any, serve: Any) -> None:
    async def check() -> None:
        async with serve(flood_of_bytes, limits={"write_timeout_s": 0.3}) as served:
            peer = await served.connect()
            peer.send(GET)
            await peer.reader.readuntil(b"\r\n\r\n")
            read = 0
            while read < 40_000_000:
                read += len(await peer.reader.read(4_000_000))
                await asyncio.sleep(0.002)
            assert served.refused == []

    run(check())


def test_an_answer_below_the_high_water_mark_that_nobody_reads_does_not_hold_its_connection(
    run: Any, serve: Any
) -> None:
    """The application is done, the transport's buffer is small, the peer keeps its window shut."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        size = 6_000_000
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
        await send({"type": "http.response.body", "body": b"x" * size})

    async def check() -> None:
        async with serve(app) as served:
            peer = await served.connect(receive_buffer=4096)
            peer.send(b"GET / HTTP/1.0\r\n\r\n")
            await asyncio.sleep(0.1)
            assert served.server.connections == 1
            await asyncio.sleep(0.6)
            assert served.server.connections == 0

    run(check())


def test_a_field_without_end_gets_431_before_it_fills_memory(run: Any, serve: Any) -> None:
    async def check() -> None:
        async with serve(limits=LONG | {"max_head_bytes": 4096}) as served:
            peer = await served.connect()
            peer.send(b"GET / HTTP/1.1\r\nx: ")
            for _ in range(20):
                peer.send(b"a" * 1000)
                await asyncio.sleep(0)
            assert_problem(await peer.answer(), 431, "head_too_large")

    run(check())


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nx: " + b"a" * 5000 + b"\r\n\r\n",
        b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nx: " + b"a" * 4500 + b"\r\ncontent-length: 4000\r\n\r\n" + b"b" * 4000,
    ],
    ids=["field", "target", "before a body"],
)
def test_a_head_over_the_limit_gets_431_with_both_numbers(run: Any, serve: Any, head: bytes) -> None:
    async def check() -> None:
        async with serve(limits=LONG | {"max_head_bytes": 4096}) as served:
            peer = await served.connect()
            peer.send(head)
            answer = await peer.answer()
            assert_problem(answer, 431, "head_too_large")
            assert "4096 are allowed" in answer.json()["detail"]

    run(check())


def test_a_small_head_before_a_large_body_is_no_large_head(run: Any, serve: Any) -> None:
    async def check() -> None:
        async with serve(limits=LONG | {"max_head_bytes": 4096}) as served:
            peer = await served.connect()
            peer.send(b"POST / HTTP/1.1\r\ncontent-length: 50000\r\n\r\n" + b"b" * 50_000)
            assert (await peer.answer()).body == b"/ " + b"b" * 50_000

    run(check())


def test_too_many_fields_get_431(run: Any, serve: Any) -> None:
    async def check() -> None:
        async with serve(limits=LONG) as served:
            peer = await served.connect()
            peer.send(b"GET / HTTP/1.1\r\n" + b"".join(b"x-%d: 1\r\n" % i for i in range(101)) + b"\r\n")
            answer = await peer.answer()
            assert_problem(answer, 431, "head_too_large")
            assert "101 header fields; 100 are allowed" in answer.json()["detail"]

    run(check())


def test_trailers_without_end_get_431_and_trailers_never_reach_the_headers(run: Any, serve: Any) -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        seen.append(list(scope["headers"]))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def check() -> None:
        chunked = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n"
        async with serve(app, limits=LONG | {"max_head_bytes": 4096}) as served:
            peer = await served.connect()
            peer.send(chunked + b"authorization: Bearer stolen\r\n\r\n")
            assert b" 204 " in await peer.reader.readuntil(b"\r\n\r\n")
            assert seen == [[(b"transfer-encoding", b"chunked")]]
            peer.send(chunked)
            for _ in range(20):
                peer.send(b"x: " + b"a" * 1000 + b"\r\n")
                await asyncio.sleep(0)
            assert_problem(await peer.answer(), 431, "head_too_large")

    run(check())


MALFORMED = {
    "not http": b"hello\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "http/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "version": b"GET / HTTP/9.9\r\n\r\n",
    "bare line feeds": b"GET / HTTP/1.1\nhost: x\n\n",
    "length and chunks": b"POST / HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
    "negative length": b"POST / HTTP/1.1\r\ncontent-length: -5\r\n\r\n",
    "folded coding": b"POST / HTTP/1.1\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "space before colon": b"GET / HTTP/1.1\r\nhost : x\r\n\r\n",
    "high bytes in the target": b"GET /\xff\xfe HTTP/1.1\r\n\r\n",
    "no path": b"GET http:// HTTP/1.1\r\n\r\n",
    "connect": b"CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n",
    "chunk size": b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
}


@pytest.mark.parametrize("sent", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_http_gets_400_and_the_server_goes_on(run: Any, serve: Any, sent: bytes) -> None:
    async def check() -> None:
        async with serve(limits=LONG) as served:
            peer = await served.connect()
            peer.send(sent)
            assert_problem(await peer.answer(), 400, "invalid_request")
            peer.leave()
            other = await served.connect()
            other.send(GET)
            assert (await other.answer()).status == 200
            assert served.log.named("bug") == []

    run(check())


def test_a_body_that_breaks_under_way_gets_400_and_its_application_is_told(run: Any, serve: Any) -> None:
    told: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        while message.get("more_body"):
            message = await receive()
        told.append(message["type"])

    async def check() -> None:
        async with serve(app, limits=LONG) as served:
            peer = await served.connect()
            peer.send(b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n")
            await asyncio.sleep(0.05)
            peer.send(b"nonsense\r\n")
            assert_problem(await peer.answer(), 400, "invalid_request")
            await asyncio.sleep(0)
            assert told == ["http.disconnect"]

    run(check())


def test_pipelined_requests_are_answered_in_order(run: Any, serve: Any) -> None:
    async def check() -> None:
        async with serve(limits=LONG) as served:
            peer = await served.connect()
            peer.send(b"".join(b"POST /%d HTTP/1.1\r\ncontent-length: 2\r\n\r\n%02d" % (i, i) for i in range(8)))
            assert [(await peer.answer()).body for _ in range(8)] == [b"/%d %02d" % (i, i) for i in range(8)]
            peer.send(GET)
            assert (await peer.answer()).body == b"/a "

    run(check())


async def slow(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.sleep(0.05)
    text = scope["path"].encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(text))]})
    await send({"type": "http.response.body", "body": text})


def test_requests_beyond_the_queue_are_left_unanswered_and_the_last_answer_says_close(run: Any, serve: Any) -> None:
    async def check() -> None:
        async with serve(slow, limits=LONG | {"max_pipelined": 3}) as served:
            peer = await served.connect()
            peer.send(b"".join(b"GET /%d HTTP/1.1\r\n\r\n" % i for i in range(5000)))
            answers = [await peer.answer() for _ in range(4)]
            assert [answer.body for answer in answers] == [b"/0", b"/1", b"/2", b"/3"]
            assert [answer.headers.get("connection") for answer in answers] == [None, None, None, "close"]
            assert await peer.rest() == b""

    run(check())


def test_a_malformed_request_behind_others_is_refused_after_their_answers(run: Any, serve: Any) -> None:
    async def check() -> None:
        async with serve(slow, limits=LONG) as served:
            peer = await served.connect()
            peer.send(b"GET /0 HTTP/1.1\r\n\r\nGET /1 HTTP/1.1\r\n\r\nnonsense\r\n\r\n")
            assert [(await peer.answer()).body for _ in range(2)] == [b"/0", b"/1"]
            assert_problem(await peer.answer(), 400, "invalid_request")
            assert await peer.rest() == b""

    run(check())


def test_a_broken_body_behind_others_never_reaches_the_application(run: Any, serve: Any) -> None:
    paths: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        paths.append(scope["path"])
        await slow(scope, receive, send)

    async def check() -> None:
        async with serve(app, limits=LONG) as served:
            peer = await served.connect()
            peer.send(b"GET /0 HTTP/1.1\r\n\r\nPOST /1 HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n")
            assert (await peer.answer()).body == b"/0"
            assert_problem(await peer.answer(), 400, "invalid_request")
            assert paths == ["/0"]

    run(check())


def test_chunked_bodies_arrive_whole(run: Any, serve: Any) -> None:
    async def check() -> None:
        async with serve(limits=LONG) as served:
            peer = await served.connect()
            peer.send(b"POST /c HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n")
            for piece in (b"5\r\nhello\r\n", b"6;name=value\r\n wor", b"ld\r\n", b"0\r\n\r\n"):
                peer.send(piece)
                await asyncio.sleep(0.01)
            assert (await peer.answer()).body == b"/c hello world"

    run(check())


def test_http_1_0_is_answered_and_closed(run: Any, serve: Any) -> None:
    async def check() -> None:
        async with serve(limits=LONG) as served:
            peer = await served.connect()
            peer.send(b"GET /old HTTP/1.0\r\n\r\n")
            answer = await peer.answer()
            assert (answer.body, answer.headers["connection"]) == (b"/old ", "close")
            assert await peer.rest() == b""

    run(check())


def test_a_peer_that_expects_100_continue_gets_it_when_its_body_is_wanted(run: Any, serve: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.5)
        await echo_body(scope, receive, send)

    async def echo_body(scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": body})

    async def check() -> None:
        async with serve(app) as served:
            peer = await served.connect()
            peer.send(b"POST / HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
            assert (await peer.answer()).status == 100
            peer.send(b"ok")
            assert (await peer.answer()).body == b"ok"

    run(check())


@pytest.mark.parametrize("body", [b"hello", b""])
def test_an_offered_upgrade_is_ignored_and_the_body_kept(run: Any, serve: Any, body: bytes) -> None:
    """Java's HttpClient offers h2c with each first request."""

    async def check() -> None:
        async with serve(limits=LONG) as served:
            peer = await served.connect()
            head = b"POST /up HTTP/1.1\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AA\r\n"
            peer.send(head + b"content-length: %d\r\n\r\n" % len(body) + body + GET)
            assert (await peer.answer()).body == b"/up " + body
            assert (await peer.answer()).body == b"/a "

    run(check())


def test_a_refused_upload_can_read_its_answer_while_it_still_sends(run: Any, serve: Any) -> None:
    """Without a lingering close the reset of the unread bytes overtakes the answer."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-length", b"5"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": b"large"})

    async def check() -> None:
        async with serve(app, limits=LONG) as served:
            for _ in range(5):
                peer = await served.connect()
                peer.send(b"POST / HTTP/1.1\r\ncontent-length: 8000000\r\n\r\n")
                for _ in range(80):
                    peer.send(b"x" * 100_000)
                    await peer.writer.drain()
                assert (await peer.answer()).status == 413
                assert await peer.rest() == b""

    run(check())


def test_a_body_left_unread_by_the_answer_is_dropped_within_bounds(run: Any, serve: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def check() -> None:
        async with serve(app, limits=LONG) as served:
            peer = await served.connect()
            for size in (1000, 300_000):
                peer.send(b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % size)
                assert (await peer.answer()).body == b"ok"
                peer.send(b"x" * size)
            assert await peer.rest() == b""

    run(check())


def test_a_connection_beyond_the_most_gets_503_and_those_that_pile_up_are_dropped(run: Any, serve: Any) -> None:
    async def check() -> None:
        async with serve(limits=LONG | {"max_connections": 4}) as served:
            kept = [await served.connect() for _ in range(4)]
            for peer in kept:
                peer.send(GET)
                assert (await peer.answer()).status == 200
            refused = await served.connect()
            refused.send(GET)
            answer = await refused.answer()
            assert_problem(answer, 503, "overloaded")
            assert answer.headers["retry-after"] == "1"
            assert float(answer.headers["server-timing"].partition("total;dur=")[2]) < 2
            dropped = await served.connect()
            assert await dropped.rest() == b""
            kept[0].send(GET)
            assert (await kept[0].answer()).status == 200

    run(check())


def test_the_application_is_told_when_the_request_was_read_and_when_the_peer_leaves(run: Any, serve: Any) -> None:
    facts: dict[str, Any] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        own = scope["extensions"]["phalanx"]
        facts["waited_s"] = perf_counter() - own["received_at"]
        own["cancelled_on_disconnect"] = True
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            facts["cancelled"] = True
            raise

    async def check() -> None:
        async with serve(app, limits=LONG) as served:
            peer = await served.connect()
            peer.send(GET[:5])
            await asyncio.sleep(0.1)
            peer.send(GET[5:])
            await asyncio.sleep(0.05)
            peer.leave()
            await asyncio.sleep(0.05)
            assert 0.09 < facts["waited_s"] < 1
            assert facts["cancelled"]
            assert served.log.named("bug") == []

    run(check())


def test_a_request_is_answered_before_the_next_one_is_read(run: Any, serve: Any) -> None:
    """Eager starts: however many sockets are ready at once, none waits for the reading of the others."""
    waits: list[float] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        waits.append(perf_counter() - scope["extensions"]["phalanx"]["received_at"])
        await send({"type": "http.response.start", "status": 503, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async def check() -> None:
        async with serve(app, limits=LONG) as served:
            loop = asyncio.get_running_loop()
            ends = [socket.create_connection(("127.0.0.1", served.server.port)) for _ in range(300)]
            await asyncio.sleep(0.2)
            assert served.server.connections == 300
            for end in ends:
                end.sendall(GET)
            for end in ends:
                end.setblocking(False)
                assert (await loop.sock_recv(end, 100)).startswith(b"HTTP/1.1 503 ")
                end.close()
            assert sorted(waits)[290] < 0.002

    run(check())


@pytest.mark.parametrize("path", ["/bug", "/silent"])
def test_an_application_that_fails_gets_its_peer_a_500_in_problem_form(run: Any, serve: Any, path: str) -> None:
    async def check() -> None:
        async with serve(limits=LONG) as served:
            peer = await served.connect()
            peer.send(b"GET %s HTTP/1.1\r\nx-request-id: mine\r\n\r\n" % path.encode())
            answer = await peer.answer()
            assert_problem(answer, 500, "internal")
            assert answer.headers["x-request-id"] == "mine"
            assert [fields["path"] for fields in served.log.named("bug")] == (["/bug"] if path == "/bug" else [])

    run(check())


def test_an_answer_that_breaks_off_is_seen_to_be_incomplete(run: Any, serve: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ConnectionResetError

    async def check() -> None:
        async with serve(app, limits=LONG) as served:
            peer = await served.connect()
            peer.send(GET)
            text = await peer.rest()
            assert text.endswith(b"4\r\nhalf\r\n")
            assert served.log.named("bug") == []

    run(check())


def test_a_head_request_gets_no_body(run: Any, serve: Any) -> None:
    async def check() -> None:
        async with serve(limits=LONG) as served:
            peer = await served.connect()
            peer.send(b"HEAD /a HTTP/1.1\r\n\r\n" + GET)
            assert (await peer.answer("HEAD")).headers["content-length"] == "3"
            assert (await peer.answer()).body == b"/a "

    run(check())


def test_answers_carry_a_date_and_do_not_name_the_server(run: Any, serve: Any) -> None:
    async def check() -> None:
        async with serve(limits=LONG) as served:
            peer = await served.connect()
            peer.send(GET)
            headers = (await peer.answer()).headers
            assert headers["date"].endswith("GMT")
            assert "server" not in headers

    run(check())


def test_small_answers_are_not_held_back_by_the_kernel(run: Any, serve: Any) -> None:
    async def check() -> None:
        async with serve(limits=LONG) as served:
            peer = await served.connect()
            peer.send(GET)
            await peer.answer()
            (connection,) = served.server._state.connections
            end = connection._socket.get_extra_info("socket")
            assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    run(check())


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    files = folder / "chain.pem", folder / "key.pem"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    words += ["-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*words, "-out", files[0], "-keyout", files[1]], check=True, capture_output=True)
    return files


def trusting(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate[0]))


def outdated(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = trusting(certificate)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


def test_tls_is_spoken_and_the_same_rules_hold_over_it(run: Any, serve: Any, certificate: tuple[Path, Path]) -> None:
    async def check() -> None:
        async with serve(tls=TlsFiles(*certificate), limits={"idle_timeout_s": 5.0}) as served:
            peer = await served.connect(ssl=trusting(certificate), server_hostname="localhost")
            peer.send(b"POST /tls HTTP/1.1\r\ncontent-length: 5\r\n\r\nhello")
            assert (await peer.answer()).body == b"/tls hello"
            assert peer.writer.get_extra_info("ssl_object").version() in ("TLSv1.2", "TLSv1.3")
            peer.send(GET[:9])
            assert_problem(await peer.answer(), 408, "request_timeout")
            with pytest.raises((ssl.SSLError, ConnectionResetError)):
                await served.connect(ssl=outdated(certificate), server_hostname="localhost")

    run(check())


def test_a_reader_that_stalls_over_tls_is_dropped(run: Any, serve: Any, certificate: tuple[Path, Path]) -> None:
    left = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["extensions"]["phalanx"]["on_disconnect"](left.set)
        await flood_of_bytes(scope, receive, send)

    async def check() -> None:
        async with serve(app, tls=TlsFiles(*certificate), limits={"read_timeout_s": 5.0}) as served:
            peer = await served.connect(ssl=trusting(certificate), server_hostname="localhost", receive_buffer=4096)
            peer.send(GET)
            async with asyncio.timeout(10):
                await left.wait()
            assert served.refused == ["stalled_reader"]

    run(check())


class Sink:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    abort = write_eof = close

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str) -> None:
        return None

    def pause_reading(self) -> None: ...

    resume_reading = pause_reading


async def written_for(pieces: list[bytes]) -> bytes:
    """Return what a connection writes when it is given `pieces`; the changing parts of its answers cut out."""
    loop = asyncio.get_running_loop()
    config = Config(echo, http="httptools", ws="none", lifespan="off", log_config=None, access_log=False)
    config.load()
    state = Connections(ConnectionLimits(max_pipelined=1000), SilentLog(), "X-Request-Id", lambda code: None)
    connection, sink = Connection(config, state, loop), Sink()
    connection.connection_made(cast("asyncio.Transport", sink))
    for piece in pieces:
        # As the loop does: outside any task.
        loop.call_soon(connection.data_received, piece)
        # Each of the six messages may take a few turns.
        for _ in range(30):
            await asyncio.sleep(0)
    connection.connection_lost(None)
    await asyncio.sleep(0)
    return VARYING.sub(b"", sink.written)


VARYING = re.compile(rb"total;dur=[0-9.]+|[0-9a-f]{32}")
MESSAGES = [
    GET,
    b"POST /p HTTP/1.1\r\ncontent-length: 5\r\n\r\nhello",
    b"POST /c HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx: y\r\n\r\n",
    b"POST /u HTTP/1.1\r\nconnection: upgrade\r\nupgrade: h2c\r\ncontent-length: 2\r\n\r\nup",
    b"HEAD /h HTTP/1.1\r\n\r\n",
    b"\r\n",
    b"GET /\xff HTTP/1.1\r\n\r\n",
    b"nonsense\r\n",
]


@given(st.lists(st.sampled_from(MESSAGES), max_size=6), st.lists(st.integers(0, 400), max_size=12))
@settings(max_examples=150, deadline=None)
def test_what_is_answered_does_not_depend_on_how_the_bytes_were_cut(messages: list[bytes], cuts: list[int]) -> None:
    sent = b"".join(messages)
    edges = sorted({0, len(sent), *(cut for cut in cuts if cut < len(sent))})
    pieces = [sent[a:b] for a, b in itertools.pairwise(edges)]

    async def check() -> None:
        assert await written_for(pieces) == await written_for([sent])

    uvloop.run(check())


@given(st.lists(st.binary(max_size=200), max_size=5))
@settings(max_examples=150, deadline=None)
def test_no_bytes_make_a_connection_fail(pieces: list[bytes]) -> None:
    async def check() -> None:
        written = await written_for(pieces)
        assert written == b"" or written.startswith(b"HTTP/1.1 ")

    uvloop.run(check())


def at_once(*extra: tuple[bytes, bytes], body: bytes = b"hello", status: int = 200) -> Any:
    """Return an application that answers in one piece where it may, and says in the body where it may not."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        fields = [(b"content-length", b"%d" % len(body)), *extra]
        if not scope["extensions"]["phalanx"]["answer_at_once"](status, fields, body):
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"8")]})
            await send({"type": "http.response.body", "body": b"ordinary"})

    return app


def test_a_whole_answer_goes_out_in_one_piece(run: Any, serve: Any) -> None:
    """With the headers of all answers, one after another on a kept connection, pipelined too."""

    async def check() -> None:
        async with serve(at_once((b"x-own", b"1"))) as served:
            peer = await served.connect()
            for _ in range(2):
                peer.send(GET)
                answer = await peer.answer()
                assert (answer.status, answer.body, answer.headers["x-own"]) == (200, b"hello", "1")
                assert "date" in answer.headers
                assert answer.headers["x-content-type-options"] == "nosniff"
            peer.send(GET * 3)
            assert [(await peer.answer()).body for _ in range(3)] == [b"hello"] * 3

    run(check())


@pytest.mark.parametrize(
    "field", [(b"x", b"a\r\nset-cookie: b"), (b"x", b"a\nb"), (b"x", b"a\0"), (b"connection", b"close")]
)
def test_fields_that_are_more_than_one_line_go_the_ordinary_way(run: Any, serve: Any, field: Any) -> None:
    """There they are refused, or heeded."""

    async def check() -> None:
        async with serve(at_once(field)) as served:
            peer = await served.connect()
            peer.send(GET)
            assert (await peer.answer()).body == b"ordinary"

    run(check())


def test_the_last_answer_of_a_connection_goes_the_ordinary_way(run: Any, serve: Any) -> None:
    """It says that it is the last."""

    async def check() -> None:
        async with serve(at_once()) as served:
            peer = await served.connect()
            peer.send(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            answer = await peer.answer()
            assert (answer.body, answer.headers["connection"]) == (b"ordinary", "close")

    run(check())
