"""The application behind its server, over sockets: who called, over what, for which page."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Any, cast

import pytest

from phalanx.edges.http.app import HttpEdge
from phalanx.edges.http.cors import Cors
from phalanx.edges.http.exchange import Exchange
from phalanx.edges.http.proxies import TrustedProxies
from phalanx.edges.http.routes import Endpoint
from phalanx.edges.http.security import HttpsOnly
from phalanx.errors import Forbidden
from phalanx.operations import Entrance, table
from phalanx.telemetry import Metrics, RequestLog

APP = "https://app.example.org"
LOOPBACK = TrustedProxies([ipaddress.ip_network("127.0.0.0/8")])
ELSEWHERE = TrustedProxies([ipaddress.ip_network("198.51.100.0/24")])


class Lines:
    """A log of requests."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def info(self, event: str, **line: Any) -> None:
        self.lines.append(line)

    debug = error = info


async def who(exchange: Exchange, params: dict[str, str]) -> None:
    """Say who called."""
    sent = {name.decode(): value.decode() for name, value in exchange.headers.items()}
    await exchange.respond_json(200, {"address": exchange.address, "is_secure": exchange.is_secure, "headers": sent})


async def refuse(exchange: Exchange, params: dict[str, str]) -> None:
    """Fail."""
    raise Forbidden


def edge(log: Lines | None = None, **how: Any) -> HttpEdge:
    """An edge with the whole table, of which only the routes beside it are called."""
    paths = [("GET", "/who", who), ("POST", "/who", who), ("GET", "/refuse", refuse), ("GET", "/livez", who)]
    system = [(method, path, Endpoint(path, answer)) for method, path, answer in paths]
    return HttpEdge(
        cast("Entrance", None), table(), system=system, metrics=Metrics(), log=log or Lines(),
        requests=RequestLog(log or Lines()), max_body_bytes=lambda row: 1000, **how,
    )  # fmt: skip


def head(target: str = "/who", method: str = "GET", **headers: str) -> bytes:
    fields = {"host": "api.example.org", **{name.replace("_", "-"): value for name, value in headers.items()}}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")


async def ask(serve: Any, app: HttpEdge, request: bytes, method: str = "GET", **how: Any) -> Any:
    async with serve(app, **how) as served:
        peer = await served.connect()
        peer.send(request)
        return await peer.answer(method)


def asked(serve: Any, app: HttpEdge, request: bytes, method: str = "GET", **how: Any) -> Any:
    return asyncio.run(ask(serve, app, request, method, **how))


def test_every_answer_carries_the_security_headers(serve: Any) -> None:
    """Of an endpoint, of a refusal by the edge, and of one by the server below it."""
    for request, status in ((head(), 200), (head("/none"), 404), (b"GET / HTTP/9\r\n\r\n", 400)):
        answer = asked(serve, edge(), request)
        assert answer.status == status
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["cache-control"] == "no-store"


def test_a_trusted_proxy_names_the_caller(serve: Any) -> None:
    """For limits and the log, which names the proxy too."""
    log = Lines()
    request = head(x_forwarded_for="203.0.113.9", x_forwarded_proto="https")
    answer = asked(serve, edge(log, proxies=LOOPBACK), request).json()
    assert (answer["address"], answer["is_secure"]) == ("203.0.113.9", True)
    (line,) = log.lines
    assert (line["address"], line["peer"]) == ("203.0.113.9", "127.0.0.1")


def test_several_headers_are_one_list(serve: Any) -> None:
    """The last one is not all of it: the proxy's own entry may be in another than the caller's."""
    request = (
        b"GET /who HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 1.1.1.1\r\nx-forwarded-for: 203.0.113.9, 127.0.0.2\r\n\r\n"
    )
    assert asked(serve, edge(proxies=LOOPBACK), request).json()["address"] == "203.0.113.9"
    split = b"GET /who HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 203.0.113.9\r\nx-forwarded-for: 127.0.0.2\r\n\r\n"
    assert asked(serve, edge(proxies=LOOPBACK), split).json()["address"] == "203.0.113.9"


@pytest.mark.parametrize("proxies", [None, ELSEWHERE])
def test_forged_headers_have_no_effect(serve: Any, proxies: TrustedProxies | None) -> None:
    """From whom nobody trusts."""
    log = Lines()
    request = head(
        x_forwarded_for="203.0.113.9", x_forwarded_proto="https", forwarded="for=203.0.113.9", x_real_ip="1.1.1.1"
    )
    answer = asked(serve, edge(log, proxies=proxies), request).json()
    assert (answer["address"], answer["is_secure"]) == ("127.0.0.1", False)
    assert log.lines[0]["address"] == "127.0.0.1"
    assert "peer" not in log.lines[0]


@pytest.mark.parametrize("name", ["authorization", "x-api-key", "host", "content-type", "origin", "idempotency-key"])
def test_a_field_that_may_come_once_is_refused_twice(serve: Any, name: str) -> None:
    """A proxy in front may have looked at the other one."""
    request = f"GET /who HTTP/1.1\r\n{name}: a\r\n{name}: b\r\n\r\n".encode()
    answer = asked(serve, edge(), request)
    assert (answer.status, name in answer.json()["detail"]) == (400, True)


@pytest.mark.parametrize(
    "way", ["content-length: 2\r\ncontent-length: 2", "content-length: 2\r\ntransfer-encoding: chunked"]
)
def test_a_body_has_one_length(serve: Any, way: str) -> None:
    """Two are how a second request is smuggled past a proxy."""
    request = f"POST /who HTTP/1.1\r\nhost: a\r\n{way}\r\n\r\n{{}}".encode()
    assert asked(serve, edge(), request).status == 400


def test_a_preflight_is_answered_without_a_credential(serve: Any) -> None:
    """For a route of the table, before anything else is asked."""
    rules = Cors([APP], credentials=True, methods=("GET", "POST", "DELETE"), headers=("authorization",))
    asks = {"origin": APP, "access-control-request-method": "DELETE", "access-control-request-headers": "authorization"}
    answer = asked(serve, edge(cors=rules), head("/v1/keys/some-id", "OPTIONS", **asks), "HEAD")
    assert answer.status == 204
    assert "content-length" not in answer.headers
    told = {
        name.removeprefix("access-control-"): v
        for name, v in answer.headers.items()
        if name.startswith("access-control-")
    }
    assert told == {
        "allow-origin": APP, "allow-credentials": "true", "allow-methods": "DELETE", "allow-headers": "authorization",
        "max-age": "7200",
    }  # fmt: skip
    assert answer.headers["vary"] == "origin"


def test_a_preflight_of_no_route_is_not_answered(serve: Any) -> None:
    """404, as for anybody."""
    request = head("/none", "OPTIONS", origin=APP, access_control_request_method="GET")
    assert asked(serve, edge(cors=Cors([APP])), request).status == 404


@pytest.mark.parametrize("rules", [None, Cors([APP])])
def test_an_origin_that_may_not_call_hears_nothing_of_cors(serve: Any, rules: Cors | None) -> None:
    """Its preflight is an OPTIONS like any other; its request is answered, and kept from the page by the browser."""
    evil = {"origin": "https://evil.example.org", "access_control_request_method": "POST"}
    for request, status in ((head("/who", "OPTIONS", **evil), 405), (head("/who", **evil), 200)):
        answer = asked(serve, edge(cors=rules), request)
        assert answer.status == status
        assert not [name for name in answer.headers if name.startswith("access-control-")]
        assert answer.headers.get("vary") == ("origin" if rules else None)


def test_pages_can_read_errors(serve: Any) -> None:
    """Of an endpoint, of the edge, of the server below it, and of a bug."""
    rules = Cors([APP])
    for request, status in (
        (head("/refuse", origin=APP), 403),
        (head("/none", origin=APP), 404),
        (head("/who", "PATCH", origin=APP), 405),
        (head("/who", origin=APP, x="y" * 40_000), 431),
    ):
        answer = asked(serve, edge(cors=rules), request, cors=rules)
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (status, APP)


def test_a_request_without_an_origin_pays_nothing(serve: Any) -> None:
    """No header of CORS is sent to whom it does not concern."""
    answer = asked(serve, edge(cors=Cors([APP])), head())
    assert not [name for name in answer.headers if name.startswith("access-control-") or name == "vary"]


def test_who_comes_in_clear_is_sent_to_tls(serve: Any) -> None:
    """With path and query; 308 keeps the method."""
    answer = asked(serve, edge(https=HttpsOnly()), head("/v1/models?a=b%20c"))
    assert (answer.status, answer.headers["location"]) == (308, "https://api.example.org/v1/models?a=b%20c")
    assert "strict-transport-security" not in answer.headers


def test_who_sends_in_clear_is_refused(serve: Any) -> None:
    """Before the body is read, and told that what was sent is no secret any more."""
    request = head("/who", "POST", authorization="Bearer key", content_length="5000")
    answer = asked(serve, edge(https=HttpsOnly()), request)
    assert (answer.status, answer.json()["code"]) == (403, "tls_required")
    assert "replace any key" in answer.json()["detail"]
    assert answer.headers["connection"] == "close"


def test_probes_are_answered_in_clear(serve: Any) -> None:
    """The kubelet and the load balancer come from beside the worker."""
    assert asked(serve, edge(https=HttpsOnly()), head("/livez")).status == 200


def test_a_trusted_proxy_s_word_on_tls_counts(serve: Any) -> None:
    """Then the answer says to come by TLS for a year; a stranger's word does not count."""
    sent = head(x_forwarded_for="203.0.113.9", x_forwarded_proto="https")
    answer = asked(serve, edge(https=HttpsOnly(), proxies=LOOPBACK), sent)
    assert (answer.status, answer.headers["strict-transport-security"]) == (200, "max-age=31536000")
    for proxies in (None, ELSEWHERE):
        assert asked(serve, edge(https=HttpsOnly(), proxies=proxies), sent).status == 308
    assert "strict-transport-security" not in asked(serve, edge(proxies=LOOPBACK), sent).headers


@pytest.mark.parametrize("twice", [False, True], ids=["in clear", "two keys"])
def test_who_is_refused_at_the_door_is_told_in_the_routes_words(serve: Any, twice: bool) -> None:
    """A client of a dialect reads its own envelope there too; on a path that is none the canonical one."""
    app = edge() if twice else edge(https=HttpsOnly())
    more = b"x-api-key: a\r\nx-api-key: b\r\n" if twice else b""
    code = "invalid_request" if twice else "tls_required"
    for path, code_of in (
        ("/api/detect-face", '"error":{"code":"%s"'), ("/v1/embed", '"error":"%s"'), ("/v1/faces/detect", '"code":"%s"'),
        ("/none", '"code":"%s"'),
    ):  # fmt: skip
        answer = asked(serve, app, head(path, "POST").replace(b"\r\n\r\n", b"\r\n" + more + b"\r\n"), "POST")
        assert answer.status == (400 if twice else 403)
        assert (code_of % code).encode() in answer.body
        assert ("problem" in answer.headers["content-type"]) == (path in ("/v1/faces/detect", "/none"))
