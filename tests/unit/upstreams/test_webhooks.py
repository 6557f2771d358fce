"""Posting to others' URLs: where to, and where not."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Sequence

import pytest

from phalanx.errors import InvalidRequest, UpstreamFailed
from phalanx.upstreams.webhooks import Poster

pytestmark = pytest.mark.anyio
INNER = ipaddress.ip_network("127.0.0.0/8")


class Server:
    """Answers each connection with one text, or never."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.asked = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked += 1
        try:
            await reader.readuntil(b"\r\n\r\n")
            if not self.answer:
                await reader.read()
            writer.write(self.answer)
            await writer.drain()
        finally:
            writer.close()


@pytest.fixture
async def poster() -> AsyncIterator[Poster]:
    made = Poster((".example:8080", "app.example", "127.0.0.1"), (INNER,), look_up=Names(["127.0.0.1"]), timeout_s=1.0)
    yield made
    await made.close()


class Names:
    """Answers every name with the next of some answers, the last again and again."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.mark.parametrize(
    "url", ["http://app.example/a", "https://app.example:443/", "http://a.example:8080/x?y=1", "http://127.0.0.1/"]
)
async def test_allowed_hosts_on_their_ports(poster: Poster, url: str) -> None:
    poster.check(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://a.example/", "http://app.example:81/", "http://example:8080/", "http://app.example.evil/", "http://10.0.0.1/",
        "http://127.0.0.2/", "http://[::1]/", "http://app.example@127.0.0.1/", "file:///etc/passwd", "http://", "app.example",
    ],
)  # fmt: skip
async def test_nothing_else(poster: Poster, url: str) -> None:
    with pytest.raises(InvalidRequest):
        poster.check(url)


@pytest.mark.parametrize(
    ("answer", "taken"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
        (b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n", None),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", None),
        (b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", None),
        (b"nonsense\r\n\r\n", None),
        (b"", None),
    ],
)
async def test_what_counts_as_taken(answer: bytes, taken: bool | None) -> None:
    server = Server(answer)
    listening = await asyncio.start_server(server, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    poster = Poster((f"app.example:{port}",), (INNER,), look_up=Names(["127.0.0.1"]), timeout_s=2.0)
    try:
        if taken is None:
            with pytest.raises(UpstreamFailed):
                await poster.post(f"http://app.example:{port}/", {}, b"{}")
        else:
            assert await poster.post(f"http://app.example:{port}/", {"webhook-id": "1"}, b"{}") is taken
        assert server.asked == 1
    finally:
        await poster.close()
        listening.close()


@pytest.mark.parametrize("inner", ["10.1.2.3", "169.254.169.254", "::1", "192.168.0.1"])
async def test_a_name_that_leads_inside_is_not_asked_even_if_it_did_not_before(inner: str) -> None:
    names = Names(["203.0.113.7", inner], [inner])
    poster = Poster(("app.example",), (INNER,), look_up=names)
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="WEBHOOK_ALLOW"):
            await poster.post("http://app.example/", {}, b"{}")
    assert names.asked == 2
    await poster.close()


async def test_a_host_that_is_away_is_said_to_be(poster: Poster) -> None:
    with pytest.raises(UpstreamFailed):
        await poster.post("http://a.example:8080/", {}, b"{}")
