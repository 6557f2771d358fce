"""URLs of images over HTTP: nothing that a caller writes leads a worker to its own network, or keeps it busy.

The worker is a real one with its own resolver and checks; where a host outside must answer, a server on loopback stands
for it, and the worker's fetcher is told that loopback may be asked.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from phalanx.upstreams.allowed import is_public
from phalanx.upstreams.fetch import Fetcher
from pictures import noise, saved

PATHS = ["/v1/images/process", "/v1/faces/detect", "/v1/faces/embed", "/api/detect-face"]
PNG = saved(noise(), "PNG")
ALLOWED = "images.example"

LOOPBACK = [
    "http://127.0.0.1/a.png", "http://127.1/", "http://127.0.1/", "http://2130706433/", "http://0x7f000001/", "http://0x7f.1/",
    "http://0x7f.0x0.0x0.0x1/", "http://0177.0.0.1/", "http://017700000001/", "http://0/", "http://0.0.0.0/", "http://127.0.0.1./",
    "http://127.000.000.001/", "http://[::1]/", "http://[0:0:0:0:0:0:0:1]/", "http://[::]/", "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/", "http://[::127.0.0.1]/", "http://[64:ff9b::7f00:1]/", "http://[2002:7f00:1::]/",
    "http://[::1%25lo]/", "http://localhost/", "http://LOCALHOST/", "http://localhost./", "http://①②⑦.⓪.⓪.①/", "http://127。0。0。1/",
    "http://169.254.169.254/latest/meta-data/", "http://10.0.0.1/", "http://192.168.0.1/", "http://[fd00::1]/", "http://[fe80::1]/",
]  # fmt: skip

TRICKS = [
    f"http://{ALLOWED}@127.0.0.1/", f"http://{ALLOWED}:80@127.0.0.1/", f"http://user:pw@{ALLOWED}/",
    f"http://127.0.0.1#@{ALLOWED}/", f"http://127.0.0.1?@{ALLOWED}/", f"http://127.0.0.1\\@{ALLOWED}/", f"http://{ALLOWED}%40127.0.0.1/",
    f"http://{ALLOWED}.evil.example/", f"http://evil-{ALLOWED}/", f"http://{ALLOWED}:22/", f"http://{ALLOWED}:6379/",
    f"http://{ALLOWED}%00.evil.example/", f"http://{ALLOWED}\r\nHost: localhost/", f"http://{ALLOWED}\t.evil.example/", "http:///etc/passwd",
    "http://", "https://", "http://[::1", "http:/127.0.0.1/", "file:///etc/passwd", f"gopher://{ALLOWED}/", f"ftp://{ALLOWED}/a.png",
    f"http://{ALLOWED}/" + "a" * 3000,
]  # fmt: skip


class Resolver:
    """In place of the system's: what each name is said to be, and who asked. The last of several answers is repeated."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: dict[str, list[str]] = {}
        self.asked: list[str] = []
        monkeypatch.setattr("socket.getaddrinfo", self)

    def __call__(self, host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        self.asked.append(host)
        left = self.answers.get(host)
        if not left:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        address = left.pop(0) if len(left) > 1 else left[0]
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [(family, socket.SOCK_STREAM, 6, "", (address, port))]


@pytest.fixture(scope="module")
def strict(start_worker: Callable[..., Any]) -> Any:
    """A worker that may ask one host."""
    return start_worker(IMAGE_URL_ALLOW=ALLOWED)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    return Resolver(monkeypatch)


def refused(worker: Any, path: str, url: str) -> Any:
    answer = worker.post(path, {"image": url})
    assert answer.status == 400, (url, answer.status, answer.body)
    assert b"127." not in answer.body.replace(url.encode(), b"")
    return answer


@pytest.mark.parametrize("url", LOOPBACK)
def test_no_notation_of_an_inner_address_is_asked(strict: Any, names: Resolver, url: str) -> None:
    """And no name is looked up for it."""
    refused(strict, PATHS[0], url)
    assert names.asked == []


@pytest.mark.parametrize("url", TRICKS)
def test_no_trick_of_writing_leads_elsewhere(strict: Any, names: Resolver, url: str) -> None:
    """User information, look-alikes, other ports and schemes, bytes that end a name early."""
    answer = strict.post(PATHS[0], {"image": url})
    assert answer.status in (400, 422), (url, answer.status, answer.body)
    assert names.asked == []


@pytest.mark.parametrize(
    "inner", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "::ffff:127.0.0.1", "fd00::1", "100.64.0.1"]
)
def test_an_allowed_name_that_leads_inside_is_refused(strict: Any, names: Resolver, inner: str) -> None:
    """Whoever holds the name decides where it leads, so the address is asked too."""
    names.answers[ALLOWED] = [inner]
    assert "IMAGE_URL_ALLOW" in refused(strict, PATHS[0], f"http://{ALLOWED}/a.png").json["detail"]
    assert names.asked == [ALLOWED]


def test_nobody_is_asked_when_no_host_is_allowed(worker: Any, names: Resolver) -> None:
    for path in (*PATHS, "/api/extract-embedding", "/api/process-image"):
        refused(worker, path, f"http://{ALLOWED}/a.png")
    assert names.asked == []


class Web:
    """A server on loopback that stands for a host outside."""

    def __init__(self) -> None:
        self.port = 0
        self.asked: list[str] = []
        self.to: dict[str, str] = {}
        self.sent = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode()
        self.asked.append(path)
        ok = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n"
        try:
            if path in self.to:
                writer.write(f"HTTP/1.1 302 Found\r\nLocation: {self.to[path]}\r\nContent-Length: 0\r\n\r\n".encode())
            elif path == "/endless":
                writer.write(ok + b"\r\n" + PNG[:50])
                while True:
                    writer.write(bytes(65536))
                    self.sent += 65536
                    await writer.drain()
            elif path == "/dripping":
                writer.write(ok + b"Content-Length: 1000\r\n\r\n")
                while True:
                    writer.write(b"\0")
                    await writer.drain()
                    await asyncio.sleep(0.05)
            elif path == "/lying":
                writer.write(ok + b"Content-Length: 99999999999\r\n\r\n")
            else:
                writer.write(ok + b"Content-Length: %d\r\n\r\n%b" % (len(PNG), PNG))
            await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


@pytest.fixture(scope="module")
def web(start_worker: Callable[..., Any]) -> Iterator[tuple[Any, Web, list[list[str]]]]:
    """A worker, a host outside for it, and the answers of the name server yet to be given: the last one is repeated."""
    host, answers = Web(), [["127.0.0.1"]]

    async def look_up(name: str, port: int) -> list[str]:
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def may_ask(address: Any) -> bool:
        return address == ipaddress.ip_address("127.0.0.1") or is_public(address)

    async def open_server() -> asyncio.Server:
        return await asyncio.start_server(host.answer, "127.0.0.1", 0)

    async def close(server: asyncio.Server) -> None:
        server.close()

    with pytest.MonkeyPatch.context() as patch:
        outer = partial(Fetcher, look_up=look_up, may_ask=may_ask, ports=range(1, 65536), timeout_s=1.0)
        patch.setattr("phalanx.app.services.Fetcher", outer)
        worker = start_worker(IMAGE_URL_ALLOW=ALLOWED)
    server = worker.run(open_server())
    host.port = server.sockets[0].getsockname()[1]
    yield worker, host, answers
    worker.run(close(server))


def ask(web: tuple[Any, Web, list[list[str]]], path: str, *answers: list[str]) -> Any:
    worker, host, waiting = web
    waiting[:] = answers or [["127.0.0.1"]]
    host.asked.clear()
    return worker.post(PATHS[0], {"image": f"http://{ALLOWED}:{host.port}{path}", "operations": [{"metadata": {}}]})


def test_an_image_is_fetched(web: Any) -> None:
    assert ask(web, "/a.png").json["metadata"]["size_bytes"] == len(PNG)


def test_a_name_that_changes_its_mind_is_asked_at_its_first_address(web: Any) -> None:
    """Rebinding: the second answer, an address inside, is never sought; given first, it is refused."""
    assert ask(web, "/a.png", ["127.0.0.1"], ["10.0.0.1"]).status == 200
    assert ask(web, "/a.png", ["10.0.0.1"], ["127.0.0.1"]).status == 400
    assert ask(web, "/a.png", ["127.0.0.1", "10.0.0.1"]).status == 400


@pytest.mark.parametrize("to", [url for url in (*LOOPBACK, *TRICKS[:12]) if url.isascii()])
def test_no_redirection_leads_inside(web: Any, to: str) -> None:
    """It passes the same checks as the URL itself, at every hop."""
    host = web[1]
    if "127.0.0.1" in to and host.port:
        to = to.replace("127.0.0.1", "127.0.0.2")
    host.to = {"/r": f"http://{ALLOWED}:{host.port}/s", "/s": to}
    answer = ask(web, "/r")
    assert answer.status in (400, 502), (to, answer.status, answer.body)
    assert host.asked == ["/r", "/s"]


def test_a_redirection_is_resolved_anew(web: Any) -> None:
    """And refused when the name has moved inside meanwhile."""
    web[1].to = {"/r": "/a.png"}
    assert ask(web, "/r", ["127.0.0.1"], ["127.0.0.1"]).status == 200
    assert ask(web, "/r", ["127.0.0.1"], ["10.0.0.1"]).status == 400


def test_a_loop_of_redirections_ends(web: Any) -> None:
    web[1].to = {"/loop": "/loop"}
    assert ask(web, "/loop").status == 502
    assert len(web[1].asked) == 4


def test_an_endless_body_is_left_where_the_bytes_end(web: Any) -> None:
    """Soon after what an image may have, which is what a request may have."""
    answer = ask(web, "/endless")
    assert (answer.status, answer.json["code"]) == (413, "too_large")
    assert web[1].sent < 4 * 10_485_760


def test_a_body_that_says_it_is_too_large_is_not_read(web: Any) -> None:
    assert ask(web, "/lying").status == 413


def test_a_body_that_drips_is_left_when_the_time_is_over(web: Any) -> None:
    assert ask(web, "/dripping").status == 504
