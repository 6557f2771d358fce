"""Whom a network address stands for, where callers without a credential are limited by it."""

from __future__ import annotations

import socket

_MAPPED = bytes(10) + b"\xff\xff"
_SUBNET_BYTES = 8


def limited_by(address: str) -> str:
    """Return the name under which limits count an address: an IPv4 address as it is, an IPv6 address as its /64.

    One IPv6 subscriber is given a /64 or more (RFC 6177), so a single address of it says little. An IPv4 address in IPv6's
    clothes (`::ffff:192.0.2.7`) counts as that IPv4 address. What is no address, such as an empty text, stays as it is.
    """
    if ":" not in address:
        return address
    try:
        packed = socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
    except OSError:
        return address
    if packed.startswith(_MAPPED):
        return socket.inet_ntop(socket.AF_INET, packed[len(_MAPPED) :])
    subnet = packed[:_SUBNET_BYTES] + bytes(len(packed) - _SUBNET_BYTES)
    return socket.inet_ntop(socket.AF_INET6, subnet) + "/64"
