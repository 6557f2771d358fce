"""Fetching: what is asked, what is refused before it is asked, and what is given up."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from phalanx.errors import DeadlineExceeded, InvalidRequest, PhalanxError, TooLarge, UnreadableInput, UpstreamFailed
from phalanx.upstreams.allowed import is_public
from phalanx.upstreams.fetch import MAX_REDIRECTS, Fetcher

PUBLIC = "93.184.215.14"
PNG = b"\x89PNG\r\n\x1a\nrest"


class Host:
    """A web server on loopback that answers by path and keeps what it was sent."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes] = {}
        self.heads: list[bytes] = []
        self.port = 0

    def says(self, path: str, body: bytes, *, status: str = "200 OK", kind: str = "image/png", extra: str = "") -> None:
        head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
        self.answers[path] = head.encode() + body

    def redirects(self, path: str, to: str, status: str = "302 Found") -> None:
        self.says(path, b"", status=status, extra=f"Location: {to}\r\n")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        path = head.split(b" ")[1].decode()
        try:
            if path == "/endless":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n")
                while True:
                    writer.write(bytes(65536))
                    await writer.drain()
            elif path == "/silent":
                await reader.read()
            else:
                writer.write(self.answers[path])
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


Scenario = Callable[[Host], Awaitable[None]]


@asynccontextmanager
async def hosting() -> AsyncIterator[Host]:
    host = Host()
    server = await asyncio.start_server(host.serve, "127.0.0.1", 0)
    host.port = server.sockets[0].getsockname()[1]
    try:
        yield host
    finally:
        server.close()


class Names:
    """A name server that says something else each time, and keeps what it was asked."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def fetcher(host: Host | None = None, names: Names | None = None, **options: Any) -> Fetcher:
    """One that may ask loopback, as a test must, and nothing else that is not public."""

    def may_ask(address: Any) -> bool:
        return str(address) == "127.0.0.1" or is_public(address)

    settings: dict[str, Any] = {"max_bytes": 1000, "may_ask": may_ask, "timeout_s": 3.0}
    settings |= {"look_up": names or Names(["127.0.0.1"]), "ports": {host.port if host else 80}, **options}
    return Fetcher(("images.example", ".cdn.example"), **settings)


async def fetch(host: Host, path: str, **options: Any) -> bytes:
    one = fetcher(host, **options)
    try:
        return await one.fetch(f"http://images.example:{host.port}{path}")
    finally:
        await one.close()


def run(scenario: Scenario) -> None:
    async def whole() -> None:
        async with hosting() as host:
            await scenario(host)

    asyncio.run(whole())


def test_an_image_is_fetched_without_telling_who_asks() -> None:
    """Host is the name; no cookie, referrer, credential or compression."""

    async def scenario(host: Host) -> None:
        host.says("/a.png", PNG, extra="Set-Cookie: a=b; Domain=images.example\r\n")
        one = fetcher(host)
        assert [await one.fetch(f"http://IMAGES.example:{host.port}/a.png") for _ in range(2)] == [PNG] * 2
        await one.close()
        assert len(host.heads) == 2
        for head in host.heads:
            names = {line.split(b":")[0].lower() for line in head.split(b"\r\n")[1:] if line}
            assert names == {b"host", b"accept", b"accept-encoding", b"user-agent", b"connection"}
            assert f"host: images.example:{host.port}".encode() in head.lower()
            assert b"identity" in head

    run(scenario)


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would resolve the name itself."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")

    async def scenario(host: Host) -> None:
        host.says("/a.png", PNG)
        assert await fetch(host, "/a.png") == PNG

    run(scenario)


REFUSED = [
    "http://example.org/a.png", "http://images.example.org/a.png", "http://evil-images.example/a.png",
    "http://cdn.example/a.png", "http://evilcdn.example/a.png", "http://images.example:22/", "http://images.example:8080/",
    "http://127.0.0.1/", "http://2130706433/", "http://0x7f000001/", "http://0177.0.0.1/", "http://127.1/", "http://0/",
    "http://[::1]/", "http://[::ffff:127.0.0.1]/", "http://[::ffff:7f00:1]/", "http://[::]/", "http://[fe80::1%25eth0]/",
    "http://localhost/", "http://169.254.169.254/latest/meta-data/", "http://user:pw@images.example/",
    "http://images.example@evil.example/", "http://evil.example#images.example", "http://evil.example\\@images.example/",
    "http://images.example\\.evil.example/", "ftp://images.example/", "file:///etc/passwd", "http:///a", "http://", "//images.example/a",
    "http://images.example:0/", "http://images.example:99999/", "http://[::1", "gopher://images.example/", "http://①②⑦.⓪.⓪.①/",
    "http://images.example/" + "a" * 3000, "http://images.example\r\nX-Evil: 1/", "http://images.example%00.evil.example/",
]  # fmt: skip


@pytest.mark.parametrize("url", REFUSED)
def test_what_is_not_allowed_is_not_even_resolved(url: str) -> None:
    """Other hosts, look-alikes, every notation of loopback, other ports and schemes, credentials."""
    names = Names(["127.0.0.1"])

    async def ask() -> None:
        one = fetcher(names=names)
        try:
            with pytest.raises(InvalidRequest):
                await one.fetch(url)
        finally:
            await one.close()

    asyncio.run(ask())
    assert names.asked == []


PRIVATE = [
    "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254",
    "100.64.0.1", "192.0.0.1", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.1.1.1",
    "240.0.0.1", "255.255.255.255", "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:93.184.215.14", "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1", "64:ff9b:1::a00:1", "2002:7f00:1::", "2001:0:1::1", "2001:db8::1", "fc00::1", "fd12::1", "fe80::1",
    "fec0::1", "ff02::1", "100::1", "3fff::1", "5f00::1",
]  # fmt: skip


@pytest.mark.parametrize("text", PRIVATE)
def test_addresses_inside_are_not_public(text: str) -> None:
    """Private, shared, loopback, link-local, multicast, reserved, documentation, and IPv6 that stands for IPv4."""
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", [PUBLIC, "8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700:4700::1111", "2a00::1"])
def test_addresses_outside_are_public(text: str) -> None:
    """The open internet."""
    assert is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("answer", [[text] for text in PRIVATE] + [[PUBLIC, "10.0.0.1"], ["10.0.0.1", PUBLIC]])
def test_a_name_that_leads_inside_is_refused(answer: list[str]) -> None:
    """Also when only one of its addresses does."""

    async def ask() -> None:
        one = fetcher(names=Names(answer), may_ask=is_public)
        try:
            with pytest.raises(InvalidRequest, match="not fetched from that host"):
                await one.fetch("http://images.example/a.png")
        finally:
            await one.close()

    asyncio.run(ask())


def test_an_allowed_address_must_be_public_too() -> None:
    """An operator who allows an address literal does not open the network inside."""

    async def ask() -> None:
        one = Fetcher(("10.0.0.1", "::1"), max_bytes=10)
        for url in ("http://10.0.0.1/a.png", "http://[::1]/a.png"):
            with pytest.raises(InvalidRequest, match="not fetched from that host"):
                await one.fetch(url)
        await one.close()

    asyncio.run(ask())


def test_a_name_is_resolved_once_and_that_address_is_asked() -> None:
    """Rebinding: the second answer of the name server, an address inside, is never sought."""

    async def scenario(host: Host) -> None:
        host.says("/a.png", PNG)
        names = Names(["127.0.0.1"], ["10.0.0.1"])
        assert await fetch(host, "/a.png", names=names) == PNG
        assert names.asked == ["images.example"]

    run(scenario)


def test_each_redirection_is_resolved_and_checked_anew() -> None:
    """Rebinding between the hops is refused."""

    async def scenario(host: Host) -> None:
        host.redirects("/a", f"http://images.example:{host.port}/b")
        host.says("/b", PNG)
        assert await fetch(host, "/a") == PNG
        with pytest.raises(InvalidRequest, match="not fetched from that host"):
            await fetch(host, "/a", names=Names(["127.0.0.1"], ["10.0.0.1"]))

    run(scenario)


@pytest.mark.parametrize(
    "to", ["http://169.254.169.254/", "http://127.0.0.1/", "http://evil.example/", "file:///etc/passwd", "http://[::1]/", "http://u:p@images.example/"]
)  # fmt: skip
def test_no_redirection_leads_out(to: str) -> None:
    """The same checks as for the caller's own URL."""

    async def scenario(host: Host) -> None:
        host.redirects("/a", to)
        with pytest.raises(InvalidRequest):
            await fetch(host, "/a")
        assert len(host.heads) == 1

    run(scenario)


def test_redirections_are_relative_bounded_and_have_somewhere_to_go() -> None:
    """Three pass, four do not; a loop ends."""

    async def scenario(host: Host) -> None:
        for number in range(MAX_REDIRECTS):
            host.redirects(f"/{number}", str(number + 1), "307 Temporary Redirect")
        host.says(f"/{MAX_REDIRECTS}", PNG)
        assert await fetch(host, "/0") == PNG
        host.redirects("/loop", "/loop")
        with pytest.raises(UpstreamFailed, match="more than 3 times"):
            await fetch(host, "/loop")
        host.redirects("/none", "http://[")
        with pytest.raises(PhalanxError):
            await fetch(host, "/none")

    run(scenario)


def test_bytes_are_capped_announced_or_not() -> None:
    """By the length, or where the count passes the cap."""

    async def scenario(host: Host) -> None:
        host.says("/large", bytes(1001))
        host.says("/fits", bytes(1000))
        assert len(await fetch(host, "/fits")) == 1000
        for path in ("/large", "/endless"):
            with pytest.raises(TooLarge, match="1000 are allowed"):
                await fetch(host, path)

    run(scenario)


def test_time_is_capped() -> None:
    """By the fetcher's own limit, and by what is left to the call."""

    async def scenario(host: Host) -> None:
        with pytest.raises(DeadlineExceeded):
            await fetch(host, "/silent", timeout_s=0.1)
        one = fetcher(host)
        with pytest.raises(DeadlineExceeded):
            await one.fetch(f"http://images.example:{host.port}/silent", within_s=0.1)
        await one.close()

    run(scenario)


def test_what_is_no_image_is_not_read() -> None:
    """A page of HTML, an error, a connection that breaks, a name that there is not."""

    async def scenario(host: Host) -> None:
        host.says("/page", b"<html>", kind="text/html")
        with pytest.raises(UnreadableInput, match="text/html"):
            await fetch(host, "/page")
        host.says("/gone", b"", status="404 Not Found")
        with pytest.raises(UpstreamFailed, match="answered 404"):
            await fetch(host, "/gone")
        host.answers["/rubbish"] = b"rubbish\r\n\r\n"
        host.answers["/short"] = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 99\r\n\r\nabc"
        for path in ("/rubbish", "/short"):
            with pytest.raises(UpstreamFailed, match="could not be reached"):
                await fetch(host, path)
        with pytest.raises(UpstreamFailed, match="could not be reached"):
            await fetch(host, "/a", names=Names([]))

    run(scenario)


def test_compressed_answers_are_not_inflated() -> None:
    """What comes compressed although that was not asked for stays so: no bomb goes off here."""

    async def scenario(host: Host) -> None:
        import gzip

        packed = gzip.compress(bytes(10**6))
        host.says("/bomb", packed, extra="Content-Encoding: gzip\r\n")
        assert await fetch(host, "/bomb", max_bytes=10_000) == packed

    run(scenario)


def test_a_leading_dot_admits_subdomains() -> None:
    """Of any depth, but not the domain itself."""

    async def scenario(host: Host) -> None:
        host.says("/a.png", PNG)
        one = fetcher(host)
        for name in ("a.cdn.example", "A.b.CDN.example", "a.cdn.example."):
            assert await one.fetch(f"http://{name}:{host.port}/a.png") == PNG
        await one.close()

    run(scenario)
