"""The server: where it listens, how it stops, what it measures."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter

from phalanx.edges import listeners
from phalanx.edges.http.loop_lag import LoopLagProbe
from phalanx.edges.http.pace import Pace
from phalanx.edges.http.server import HttpServer, TlsFiles, tls_context
from phalanx.edges.listeners import CannotListen, bind, make_room
from phalanx.edges.metrics_server import metrics_server

GET = b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n"
LONG = {"read_timeout_s": 5.0, "write_timeout_s": 5.0, "idle_timeout_s": 5.0}


class Gate:
    """An application whose `/slow` waits until it is opened; everything else is answered at once."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.entered = asyncio.Event()
        self.ready = True

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/slow":
            self.entered.set()
            await self.open.wait()
        status = 503 if scope["path"] == "/readyz" and not self.ready else 200
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    def stop(self) -> None:
        self.ready = False


def asks(path: str) -> bytes:
    return b"GET %s HTTP/1.1\r\n\r\n" % path.encode()


def test_a_drain_says_so_while_it_accepts_then_closes_then_lets_calls_finish(run: Any, serve: Any) -> None:
    async def check() -> None:
        gate = Gate()
        how = {"on_draining": gate.stop, "drain_delay_s": 0.3, "drain_timeout_s": 5.0, "limits": LONG}
        async with serve(gate, **how) as served:
            busy, idle = await served.connect(), await served.connect()
            idle.send(asks("/readyz"))
            assert (await idle.answer()).status == 200
            busy.send(asks("/slow"))
            await gate.entered.wait()
            draining = asyncio.ensure_future(served.server.drain())
            await asyncio.sleep(0.1)

            late = await served.connect()
            late.send(asks("/readyz"))
            answer = await late.answer()
            assert (answer.status, answer.headers["connection"]) == (503, "close")

            await asyncio.sleep(0.3)
            assert await idle.rest() == b""
            with pytest.raises(ConnectionRefusedError):
                await served.connect()
            assert not draining.done()
            gate.open.set()
            answer = await busy.answer()
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            async with asyncio.timeout(10):
                await draining
            assert [event for event, _ in served.log.events] == ["draining", "drained"]

    run(check())


def test_calls_that_outlast_the_drain_are_cancelled_and_told(run: Any, serve: Any) -> None:
    async def check() -> None:
        gate = Gate()
        async with serve(gate, drain_timeout_s=0.1, limits=LONG) as served:
            peer = await served.connect()
            peer.send(asks("/slow"))
            await gate.entered.wait()
            began = perf_counter()
            await served.server.drain()
            assert 0.09 < perf_counter() - began < 10
            answer = await peer.answer()
            assert (answer.status, answer.json()["code"]) == (503, "unavailable")
            assert answer.headers["retry-after"] == "1"
            assert served.log.named("calls cancelled") == [{"calls": 1}]

    run(check())


def test_a_call_that_resists_cancelling_does_not_hold_the_drain(
    run: Any, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phalanx.edges.http.server.CANCELLED_S", 0.1)
    entered, release = asyncio.Event(), asyncio.Event()

    async def stubborn(scope: Any, receive: Any, send: Any) -> None:
        entered.set()
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()

    async def check() -> None:
        async with serve(stubborn, drain_timeout_s=0.1, limits=LONG) as served:
            peer = await served.connect()
            peer.send(GET)
            await entered.wait()
            async with asyncio.timeout(10):
                await served.server.drain()
            assert await peer.rest() == b""
            release.set()

    run(check())


def test_hurrying_ends_the_wait_of_a_drain(run: Any, serve: Any) -> None:
    async def check() -> None:
        gate = Gate()
        async with serve(gate, drain_delay_s=30, drain_timeout_s=30, limits=LONG) as served:
            peer = await served.connect()
            peer.send(asks("/slow"))
            await gate.entered.wait()
            draining = asyncio.ensure_future(served.server.drain())
            await asyncio.sleep(0.05)
            served.server.hurry()
            async with asyncio.timeout(10):
                await draining
            assert (await peer.answer()).status == 503

    run(check())


def test_a_drain_at_once_leaves_out_the_delay_and_no_more(run: Any, serve: Any) -> None:
    """As when others go on accepting on the same sockets: calls under way still finish."""

    async def check() -> None:
        gate = Gate()
        async with serve(gate, drain_delay_s=30, drain_timeout_s=30, limits=LONG) as served:
            peer = await served.connect()
            peer.send(asks("/slow"))
            await gate.entered.wait()
            draining = asyncio.ensure_future(served.server.drain(at_once=True))
            await asyncio.sleep(0.05)
            with pytest.raises(ConnectionError):
                await served.connect()
            gate.open.set()
            async with asyncio.timeout(10):
                await draining
            assert (await peer.answer()).status == 200

    run(check())


def test_a_request_half_read_when_the_listeners_close_is_still_answered(run: Any, serve: Any) -> None:
    async def check() -> None:
        async with serve(drain_timeout_s=30.0, limits=LONG) as served:
            head, body = await served.connect(), await served.connect()
            head.send(GET[:7])
            body.send(b"POST /b HTTP/1.1\r\ncontent-length: 5\r\n\r\nhe")
            await asyncio.sleep(0.05)
            draining = asyncio.ensure_future(served.server.drain())
            await asyncio.sleep(0.05)
            head.send(GET[7:])
            body.send(b"llo")
            for peer, text in ((head, b"/a "), (body, b"/b hello")):
                answer = await peer.answer()
                assert (answer.body, answer.headers["connection"]) == (text, "close")
            async with asyncio.timeout(10):
                await draining

    run(check())


def test_a_connection_that_never_asks_does_not_hold_a_drain(
    run: Any, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phalanx.edges.http.protocol.NEWCOMER_S", 0.05)

    async def check() -> None:
        async with serve(drain_timeout_s=5.0, limits=LONG | {"write_timeout_s": 0.2}) as served:
            await served.connect()
            await asyncio.sleep(0.02)
            began = perf_counter()
            await served.server.drain()
            assert perf_counter() - began < 4

    run(check())


PROGRAM = """
import asyncio, sys
import uvloop
from phalanx.edges.http.server import HttpServer

class Log:
    def info(self, event, **fields): print(event, flush=True)
    warning = error = info

async def app(scope, receive, send):
    if scope["path"] == "/slow":
        print("entered", flush=True)
        await asyncio.sleep(60)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})

async def main():
    server = HttpServer(app, host="127.0.0.1", port=0, log=Log(), drain_timeout_s=60)
    server.bind()
    print(server.port, flush=True)
    await server.serve_forever()
    print("closing stores", flush=True)

uvloop.run(main())
"""


@pytest.fixture
def process() -> Any:
    program = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True)
    yield program
    program.kill()
    program.wait()
    assert program.stdout is not None
    program.stdout.close()


def connect_to(port: int) -> socket.socket:
    end = socket.create_connection(("127.0.0.1", port), timeout=5)
    end.sendall(GET)
    assert end.recv(1000).startswith(b"HTTP/1.1 200")
    return end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_returns_to_who_closes_the_stores(process: Any, number: int) -> None:
    with connect_to(int(process.stdout.readline())):
        process.send_signal(number)
        assert [process.stdout.readline().strip() for _ in range(3)] == ["draining", "drained", "closing stores"]
        assert process.wait(5) == 0


def test_a_second_signal_ends_the_draining_at_once(process: Any) -> None:
    with connect_to(int(process.stdout.readline())) as end:
        end.sendall(asks("/slow"))
        assert process.stdout.readline() == "entered\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "draining\n"
        time.sleep(0.2)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert [process.stdout.readline().strip() for _ in range(3)] == ["calls cancelled", "drained", "closing stores"]
        assert process.wait(5) == 0
        assert end.recv(1000).startswith(b"HTTP/1.1 503")


def test_a_taken_port_is_named_with_the_setting_to_change() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CannotListen, match=rf"port {port} on 127\.0\.0\.1 is taken .* set PORT"):
            bind("127.0.0.1", port, setting="PORT")


def test_an_address_of_another_machine_is_refused_by_name() -> None:
    with pytest.raises(CannotListen, match=r"192\.0\.2\.1 is not an address of this machine; set HOST"):
        bind("192.0.2.1", 0, setting="HOST")


def test_a_name_that_leads_nowhere_is_refused_by_name() -> None:
    with pytest.raises(CannotListen, match="'no such host' is neither an address nor a name"):
        bind("no such host", 0, setting="HOST")


def test_who_comes_before_the_server_starts_waits_and_is_answered(run: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def check() -> None:
        server = HttpServer(app, host="localhost", port=0, log=_Quiet())
        with pytest.raises(RuntimeError, match="bind"):
            _ = server.port
        server.bind()
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(GET)
        await asyncio.sleep(0.05)
        await server.start()
        assert b" 204 " in await reader.readuntil(b"\r\n\r\n")
        writer.close()
        await server.drain()

    run(check())


def test_sockets_of_a_parent_are_served(run: Any, serve: Any) -> None:
    async def check() -> None:
        sockets = bind("127.0.0.1", 0, setting="PORT")
        async with serve(sockets=sockets) as served:
            assert served.server.port == sockets[0].getsockname()[1]
            peer = await served.connect()
            peer.send(GET)
            assert (await peer.answer()).status == 200

    run(check())


def test_every_address_of_a_name_gets_the_same_port(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in ("127.0.0.1", "127.0.0.2")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **how: found)
    sockets = bind("both", 0, setting="HOST")
    assert {bound.getsockname()[0] for bound in sockets} == {"127.0.0.1", "127.0.0.2"}
    assert len({bound.getsockname()[1] for bound in sockets}) == 1
    for bound in sockets:
        bound.close()


def test_room_for_connections_is_made_up_to_the_hard_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: asked.append(limits))
    assert make_room(2000) == 2000
    assert make_room(8192) == 4096 - listeners.OTHER_FILES
    assert make_room(100) == 100
    assert asked == [(2000 + listeners.OTHER_FILES, 4096), (4096, 4096)]


def test_files_that_are_no_certificate_are_named(tmp_path: Path) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_text("junk")
    with pytest.raises(CannotListen, match=r"TLS_CERT_FILE .*junk\.pem"):
        tls_context(TlsFiles(junk, junk))
    with pytest.raises(CannotListen, match="No such file"):
        tls_context(TlsFiles(tmp_path / "none.pem", junk))


class _Quiet:
    def info(self, event: str, **fields: Any) -> None: ...

    warning = error = info


async def _scrape(port: int, request: bytes) -> tuple[bytes, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    body = b"" if request.startswith(b"HEAD") else await reader.readexactly(length)
    writer.close()
    return head, body


METRICS = {
    "text": (b"GET /metrics HTTP/1.1\r\n\r\n", b" 200 ", b"text/plain", b"things_total 3.0"),
    "openmetrics": (
        b"GET /metrics HTTP/1.1\r\naccept: application/openmetrics-text; version=1.0.0\r\n\r\n",
        b" 200 ", b"application/openmetrics-text", b"# EOF\n",
    ),
    "head": (b"HEAD /metrics HTTP/1.1\r\n\r\n", b" 200 ", b"text/plain", b""),
    "odd accept": (
        b"GET /metrics HTTP/1.1\r\naccept: application/openmetrics-text; version=;;\xff\r\n\r\n", b" 200 ", b"", b"things",
    ),
    "unknown version": (
        b"GET /metrics HTTP/1.1\r\naccept: application/openmetrics-text; version=zzz\r\n\r\n", b" 200 ", b"", b"things",
    ),
    "elsewhere": (b"GET / HTTP/1.1\r\n\r\n", b" 404 ", b"text/plain", b"/metrics"),
    "posted": (b"POST /metrics HTTP/1.1\r\ncontent-length: 0\r\n\r\n", b" 405 ", b"text/plain", b"GET"),
}  # fmt: skip


@pytest.mark.parametrize(("request_", "status", "media", "text"), METRICS.values(), ids=METRICS.keys())
def test_metrics_are_served_on_their_own_port(
    run: Any, request_: bytes, status: bytes, media: bytes, text: bytes
) -> None:
    async def check() -> None:
        registry = CollectorRegistry()
        Counter("things", "Things.", registry=registry).inc(3)
        server = metrics_server(registry, host="127.0.0.1", port=0, log=_Quiet())
        await server.start()
        try:
            head, body = await _scrape(server.port, request_)
        finally:
            await server.drain()
        assert status in head.splitlines()[0]
        assert media in head
        assert text in body

    run(check())


def test_a_taken_metrics_port_names_its_setting(run: Any) -> None:
    async def check() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            server = metrics_server(CollectorRegistry(), host="127.0.0.1", port=port, log=_Quiet())
            with pytest.raises(CannotListen, match="set PROMETHEUS_BIND"):
                await server.start()

    run(check())


def test_the_probe_sees_a_blocked_loop_and_tells_when_it_turns(run: Any) -> None:
    async def check() -> None:
        lags: list[float] = []
        probe = LoopLagProbe(lags.append, interval_s=0.02)
        assert not probe.is_turning()
        probe.start()

        async def seen(count: int) -> None:
            async with asyncio.timeout(20):
                while len(lags) < count:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

        await seen(3)
        # A busy machine may be late once, not each time.
        assert min(lags) < 0.1
        assert probe.is_turning(within_s=10)
        before = len(lags)
        time.sleep(0.3)  # noqa: ASYNC251  blocking the loop is the point
        assert not probe.is_turning(within_s=0.1)
        await seen(before + 1)
        assert lags[before] > 0.1
        assert probe.is_turning(within_s=10)
        probe.stop()
        assert not probe.is_turning()

    run(check())


def test_a_pace_ends_silence_a_window_after_the_last_byte() -> None:
    pace = Pace(10, 500)
    assert pace.start(100) == 110
    pace.move(10_000)
    assert pace.judge(110, last_moved_at=104) == 114
    assert pace.judge(114, last_moved_at=104) is None


def test_a_pace_asks_its_floor_of_every_window() -> None:
    pace = Pace(10, 500)
    pace.start(0)
    pace.move(5000)
    assert pace.judge(10, last_moved_at=9.9) == pytest.approx(19.9)
    assert pace.judge(19.9, last_moved_at=19.8) == 20
    assert pace.judge(20, last_moved_at=19.9) is None
