"""Callers behind proxies."""

from __future__ import annotations

import ipaddress

import pytest

from phalanx.edges.http.proxies import MAX_HOPS, Sender, TrustedProxies

PROXIES = TrustedProxies([ipaddress.ip_network(n) for n in ("10.0.0.0/8", "192.0.2.1/32", "2001:db8:aa::/48")])
PEER = "10.0.0.1"
CALLER = "203.0.113.9"


def sender(forwarded: str | None, proto: str | None = None, peer: str = PEER, *, is_secure: bool = False) -> Sender:
    headers = {b"x-forwarded-for": forwarded, b"x-forwarded-proto": proto}
    return PROXIES.sender(peer, is_secure, {n: v.encode("latin-1") for n, v in headers.items() if v is not None})


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        (CALLER, CALLER),
        (f"1.1.1.1, {CALLER}", CALLER),
        (f"1.1.1.1,{CALLER} , 10.9.9.9,192.0.2.1", CALLER),
        (f"{CALLER}:4711", CALLER),
        ("2001:db8::7", "2001:db8::7"),
        ("2001:DB8:0:0::7", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("[2001:db8::7]:443, 2001:db8:aa::1", "2001:db8::7"),
        (f"::ffff:{CALLER}", CALLER),
        (f"{CALLER}, ::ffff:10.0.0.2", CALLER),
        ("10.1.1.1, 10.2.2.2", "10.1.1.1"),
    ],
)
def test_the_nearest_address_that_is_not_trusted_is_the_caller(forwarded: str, address: str) -> None:
    """Read from the right; whoever is at the left end claims what they like."""
    assert sender(forwarded).address == address


@pytest.mark.parametrize(
    "garbage",
    [
        "", "unknown", "_hidden", "127.1", "1.2.3.4.5", "256.1.1.1", "[::1", "::1]", "[10.0.0.1", "10.0.0.1:port", "1.2.3.4:123456",
        "fe80::1%eth0", ":::", '"1.2.3.4"', "1.2.3.4 5.6.7.8", "é", "1" * 9000, "\x00",
    ],
)  # fmt: skip
def test_the_reading_stops_at_what_is_no_address(garbage: str) -> None:
    """The proxy that wrote it down stands for who is behind it, and nothing further left is believed."""
    assert sender(garbage).address == PEER
    assert sender(f"{CALLER}, {garbage}, 10.0.0.2").address == "10.0.0.2"


def test_a_peer_that_is_not_trusted_is_the_caller() -> None:
    """Forged headers change nothing."""
    assert sender("10.0.0.2", "https", peer=CALLER) == Sender(CALLER, False)
    assert sender(None, "http", peer=CALLER, is_secure=True) == Sender(CALLER, True)


@pytest.mark.parametrize("peer", ["", "unix", "fe80::1%eth0"])
def test_a_peer_without_an_address_is_not_trusted(peer: str) -> None:
    """As over a socket of the file system."""
    assert sender(CALLER, "https", peer=peer) == Sender(peer, False)


def test_a_peer_in_the_clothes_of_ipv6_is_known() -> None:
    """As a listener for both families sees them."""
    assert sender(CALLER, peer="::ffff:10.0.0.1").address == CALLER


def test_a_list_without_end_is_read_to_a_bound() -> None:
    """The bound is of work, not of trust."""
    assert sender(", ".join([CALLER] + ["10.0.0.2"] * (MAX_HOPS - 1))).address == CALLER
    assert sender(", ".join([CALLER] + ["10.0.0.2"] * MAX_HOPS)).address == "10.0.0.2"


@pytest.mark.parametrize(
    ("forwarded", "proto", "is_secure"),
    [
        (CALLER, "https", True),
        (CALLER, "HTTPS", True),
        (CALLER, "http", False),
        (CALLER, "gopher", False),
        (CALLER, "", False),
        (None, "https", True),
        # One entry for two hops: the outer proxy set it and the inner one passed it on.
        (f"{CALLER}, 10.0.0.2", "https", True),
        # Two: each proxy appended what it was spoken to with; the caller's is the outer one's.
        (f"{CALLER}, 10.0.0.2", "https, http", True),
        (f"{CALLER}, 10.0.0.2", "http, https", False),
        # The caller sent "https" themselves, in clear.
        (CALLER, "https, http", False),
        (f"{CALLER}, 10.0.0.2", "https, http, http", False),
    ],
)
def test_the_scheme_is_the_one_that_the_caller_spoke(forwarded: str | None, proto: str, is_secure: bool) -> None:
    """By the entry of the proxy that wrote the caller's address down."""
    assert sender(forwarded, proto).is_secure is is_secure
    assert sender(forwarded, proto, is_secure=True).is_secure is is_secure


@pytest.mark.parametrize("is_secure", [True, False])
def test_without_a_word_on_the_scheme_the_connection_tells(is_secure: bool) -> None:
    """Not all proxies say it."""
    assert sender(CALLER, None, is_secure=is_secure) == Sender(CALLER, is_secure)
