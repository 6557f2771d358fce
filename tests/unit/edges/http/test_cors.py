"""Pages of other origins."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import phalanx
from phalanx.edges.http.cors import EXPOSED, MAX_AGE_S, Cors
from phalanx.settings import Settings

EDGES = Path(phalanx.__file__).parent / "edges"

APP = b"https://app.example.org"
ASKS = {b"origin": APP, b"access-control-request-method": b"POST"}


def cors(*origins: str, **how: Any) -> Cors:
    return Cors(origins or (APP.decode(),), **how)


def test_an_origin_that_may_call_is_told_so_and_no_other() -> None:
    """By its own name; and caches are told that the answer differs by origin, also where it does not admit."""
    rules = cors(expose=("x-model", "etag"))
    assert dict(rules.answer(APP)) == {
        b"access-control-allow-origin": APP,
        b"access-control-expose-headers": b"x-model, etag",
        b"vary": b"origin",
    }
    for stranger in (
        b"https://evil.example.org",
        b"null",
        b"",
        b"https://app.example.org.evil.org",
        APP + b"/",
        APP.upper(),
    ):
        assert rules.answer(stranger) == ((b"vary", b"origin"),)
        assert rules.preflight({**ASKS, b"origin": stranger}, ["POST"]) is None


def test_a_request_without_an_origin_is_left_alone() -> None:
    """It comes from no page."""
    assert cors().answer(None) == ()
    assert cors("*").answer(None) == ()
    assert cors().preflight({b"access-control-request-method": b"POST"}, ["POST"]) is None


def test_all_origins_may_call_but_without_credentials() -> None:
    """With them every page could act as its visitor."""
    assert dict(cors("*").answer(b"null")) == {b"access-control-allow-origin": b"*"}
    with pytest.raises(ValueError, match="credentials"):
        cors("*", credentials=True)


def test_credentials_are_for_named_origins() -> None:
    """Others hear nothing of it."""
    rules = cors(credentials=True)
    assert (b"access-control-allow-credentials", b"true") in rules.answer(APP)
    assert (b"access-control-allow-credentials", b"true") not in rules.answer(b"https://evil.example.org")


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("https://App.Example.org", b"https://app.example.org"),
        ("https://app.example.org:443", b"https://app.example.org"),
        ("http://app.example.org:80", b"http://app.example.org"),
        ("http://localhost:5173", b"http://localhost:5173"),
        ("http://app.example.org:443", b"http://app.example.org:443"),
    ],
)
def test_origins_are_compared_as_browsers_write_them(written: str, sent: bytes) -> None:
    """In lower case, without the usual port."""
    assert dict(cors(written).answer(sent))[b"access-control-allow-origin"] == sent


def test_a_preflight_is_answered_with_what_the_route_and_the_settings_allow() -> None:
    """Methods of the route that pages may use, and the headers that they may send."""
    rules = cors(methods=("GET", "POST"), headers=("authorization", "content-type"))
    assert dict(rules.preflight(ASKS, ["DELETE", "GET", "HEAD", "POST"]) or ()) == {
        b"access-control-allow-methods": b"GET, HEAD, POST",
        b"access-control-allow-headers": b"authorization, content-type",
        b"access-control-max-age": b"%d" % MAX_AGE_S,
    }


def test_all_headers_are_told_by_name() -> None:
    """To a browser `*` leaves out Authorization, and with credentials it is a header's name."""
    rules = cors(credentials=True)
    asked = {**ASKS, b"access-control-request-headers": b"authorization,x-api-key"}
    assert (b"access-control-allow-headers", b"authorization,x-api-key") in (rules.preflight(asked, ["POST"]) or ())


@pytest.mark.parametrize("odd", [b"", b"a b", b"a\r\nset-cookie: b", b"a,,b", b"x" * 2000, "é".encode()])
def test_headers_that_are_none_are_not_repeated(odd: bytes) -> None:
    """Nothing of a caller's gets into a head unread."""
    answer = cors().preflight({**ASKS, b"access-control-request-headers": odd}, ["POST"])
    assert answer is not None
    assert b"access-control-allow-headers" not in dict(answer)


def test_all_exposed_headers_are_told_by_name_with_credentials() -> None:
    """Where `*` would be taken for a header's name."""
    assert dict(cors(expose=("*",)).answer(APP))[b"access-control-expose-headers"] == b"*"
    named = dict(cors(expose=("*",), credentials=True).answer(APP))[b"access-control-expose-headers"]
    assert {b"x-request-id", b"ratelimit", b"retry-after"} <= set(named.split(b", "))


def test_pages_may_read_by_default_what_says_anything_to_them() -> None:
    """Whose default is named: the same as what `*` stands for, and every header of an answer that is not for browsers."""
    assert Settings().cors_expose_headers == EXPOSED
    source = "".join(path.read_text() for path in EDGES.rglob("*.py"))
    written = set(re.findall(r'b"(x-[a-z-]+|ratelimit[a-z-]*|[a-z]+-replayed|retry-after)"', source))
    for_others = {
        "x-forwarded-for", "x-forwarded-proto", "x-api-key", "x-content-type-options", "x-accel-buffering",
    }  # fmt: skip
    assert written - for_others <= {*EXPOSED}
    assert "x-simulated" in written
