"""Nothing is served in clear, and repeated header fields are no way around a proxy."""

from __future__ import annotations

from typing import Any

import pytest

from phalanx.edges.fields import fold
from phalanx.edges.http.security import HttpsOnly
from phalanx.edges.request_id import request_id
from phalanx.errors import InvalidRequest, TlsRequired
from phalanx.services.callers.keys import new_key_text


def location(rule: HttpsOnly, host: str = "api.example.org:8000", method: str = "GET", **scope: Any) -> str:
    whole = {"method": method, "path": "/v1/models", "query_string": b"", **scope}
    headers = {b"host": host.encode("latin-1")} if host else {}
    name, value = rule.redirection(whole, headers)
    assert name == b"location"
    return value.decode()


def test_a_reader_is_sent_to_the_same_place_over_tls() -> None:
    """At the usual port: the port that was called speaks no TLS."""
    assert location(HttpsOnly()) == "https://api.example.org/v1/models"
    assert location(HttpsOnly(), "[2001:db8::7]:8000", method="HEAD") == "https://[2001:db8::7]/v1/models"
    odd: dict[str, Any] = {"path": "/a b", "raw_path": b"/a%20b", "query_string": b"x=%26&y"}
    assert location(HttpsOnly(), **odd) == "https://api.example.org/a%20b?x=%26&y"
    assert location(HttpsOnly(), path="/a b/é?") == "https://api.example.org/a%20b/%C3%A9%3F"


@pytest.mark.parametrize(
    ("public_url", "place"),
    [
        ("https://api.example.org", "api.example.org"),
        ("https://api.example.org:8443/prefix", "api.example.org:8443"),
        ("http://api.example.org:8000", "api.example.org"),
        ("https://user:password@api.example.org", "api.example.org"),
    ],
)
def test_the_public_address_wins_over_the_one_that_was_called(public_url: str, place: str) -> None:
    """The Host header is the caller's; the public address is ours."""
    assert location(HttpsOnly(public_url), "evil.example.org") == f"https://{place}/v1/models"


@pytest.mark.parametrize(
    "host", ["", "a b", "evil.org/x", "evil.org@api", "a\r\nset-cookie: b", "é", "a:b", "x" * 300, "[zz]"]
)
def test_a_host_that_is_none_is_not_repeated(host: str) -> None:
    """There is nowhere to send its caller."""
    with pytest.raises(TlsRequired):
        location(HttpsOnly(), host)


@pytest.mark.parametrize("path", [b"*", b"evil.example.org", b"\\\\evil.example.org"])
def test_a_target_that_is_no_path_is_not_repeated(path: bytes) -> None:
    """It would become part of the host."""
    with pytest.raises(TlsRequired):
        location(HttpsOnly(), raw_path=path)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_who_sent_something_in_clear_is_told_what_that_means(method: str) -> None:
    """No redirection mends it, so the client is not led to do it each time."""
    with pytest.raises(TlsRequired, match="replace any key, token or password"):
        location(HttpsOnly("https://api.example.org"), method=method)


def test_repeated_fields_are_joined_in_their_order() -> None:
    """As RFC 9110 has it."""
    fields = [(b"x-forwarded-for", b"1.1.1.1"), (b"accept", b"a/b"), (b"x-forwarded-for", b"2.2.2.2, 3.3.3.3")]
    assert fold(fields) == {b"x-forwarded-for": b"1.1.1.1, 2.2.2.2, 3.3.3.3", b"accept": b"a/b"}


@pytest.mark.parametrize(
    "name", ["authorization", "x-api-key", "content-type", "content-length", "host", "idempotency-key", "origin"]
)
def test_a_field_that_may_come_once_is_refused_twice(name: str) -> None:
    """Even where both say the same; and neither value is shown."""
    with pytest.raises(InvalidRequest, match=f"{name} was sent more than once") as refused:
        fold([(name.encode(), b"one value"), (name.encode(), b"one value")])
    assert "one value" not in refused.value.detail


@pytest.mark.parametrize(
    "credential",
    [
        new_key_text("fe_"),
        new_key_text("sk_"),
        new_key_text("fe_")[:-4],
        "eyJhbGciOiJIUzI1NiJ9.e30.c2ln",
        "AAGa" + "b" * 40 + "-_-",
    ],
    ids=["fe", "sk", "cut short", "access token", "refresh token"],
)
def test_a_credential_is_no_request_id(credential: str) -> None:
    """Ids are logged."""
    assert request_id(credential.encode()) != credential


@pytest.mark.parametrize(
    "sound",
    [
        "a",
        "req_" + "f" * 32,
        "0190b5c2-7d3e-7a61-9b1f-2f1f8a3c9d10",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "f" * 64,
    ],
)
def test_an_id_of_the_caller_s_is_kept(sound: str) -> None:
    """UUIDs, trace contexts, digests."""
    assert request_id(sound.encode()) == sound
