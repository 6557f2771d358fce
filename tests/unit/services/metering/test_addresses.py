"""Addresses as limits count them."""

from __future__ import annotations

import pytest

from phalanx.services.metering.addresses import limited_by


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::9", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::ffff:c000:207", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("/run/phalanx.sock", "/run/phalanx.sock"),
        ("not:an:address", "not:an:address"),
    ],
)
def test_addresses_count_as_their_subscriber(address: str, counted: str) -> None:
    """IPv4 by address, IPv6 by /64, and no other text is taken for an address."""
    assert limited_by(address) == counted


def test_neighbours_in_a_subnet_share_a_limit_and_subnets_do_not() -> None:
    """A caller with 2^64 addresses has one limit."""
    assert limited_by("2001:db8::1") == limited_by("2001:db8::ffff:ffff:ffff:ffff")
    assert limited_by("2001:db8::1") != limited_by("2001:db8:0:1::1")
