"""Who sent a request, and over what, when proxies stand between: X-Forwarded-For and X-Forwarded-Proto, believed from some.

Each proxy appends the address that it was called from, so the list is read from its right end: an address counts as long
as the one before it, which wrote it down, is trusted. The left end is whatever the caller chose to send.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from phalanx.settings import Network

MAX_HOPS = 32
"""Addresses of one X-Forwarded-For that are looked at."""
MAX_HOP_BYTES = 64
"""An IPv6 address has 45 characters at most; a port and brackets may come on top."""
REMEMBERED_HOPS = 4096

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_FORM = re.compile(rb"\[([0-9A-Fa-f:.]+)\](?::\d{1,5})?|([0-9.]+)(?::\d{1,5})?|([0-9A-Fa-f:.]+)")
"""`[2001:db8::7]` or `192.0.2.7`, both also with a port; or `2001:db8::7`."""


class Sender(NamedTuple):
    """Whose request it is: an address, and whether it was sent over TLS."""

    address: str
    is_secure: bool


class Hop(NamedTuple):
    """One address on the way, and whether it is a trusted proxy's."""

    address: str
    is_trusted: bool


class TrustedProxies:
    """Proxies by their networks. See the module."""

    def __init__(self, networks: Iterable[Network]) -> None:
        self._networks = tuple(networks)
        self._hop = functools.lru_cache(REMEMBERED_HOPS)(self._judge)

    def sender(self, peer: str, is_secure: bool, headers: Mapping[bytes, bytes]) -> Sender:
        """Return who sent a request that came from `peer`, over TLS or not.

        `headers` have repeated fields joined. The sender is the address nearest to us that is not trusted. At something
        that is no address the reading stops, and the proxy that wrote it down stands for whoever is behind it.
        """
        hop = self._hop(peer.encode())
        if hop is None or not hop.is_trusted:
            return Sender(peer, is_secure)
        passed = 0
        for entry in _from_the_right(headers.get(b"x-forwarded-for", b"")):
            found = self._hop(entry) if len(entry) <= MAX_HOP_BYTES else None
            if found is None:
                break
            hop, passed = found, passed + 1
            if not found.is_trusted:
                break
        return Sender(hop.address, _is_secure(headers.get(b"x-forwarded-proto"), passed, otherwise=is_secure))

    def _judge(self, entry: bytes) -> Hop | None:
        address = _address(entry)
        if address is None:
            return None
        return Hop(str(address), any(address in network for network in self._networks))


def _from_the_right(value: bytes) -> list[bytes]:
    entries = value.rsplit(b",", MAX_HOPS)[-MAX_HOPS:] if value else []
    return [entry.strip() for entry in reversed(entries)]


def _is_secure(value: bytes | None, passed: int, *, otherwise: bool) -> bool:
    """Whether the sender spoke TLS to the proxy that wrote its address down, `passed` addresses from the right.

    Of a list, which proxies that append make, the entry at the same place tells; of a shorter one, its leftmost.
    """
    if value is None:
        return otherwise
    schemes = value.rsplit(b",", MAX_HOPS)
    place = min(max(passed, 1), len(schemes))
    return schemes[-place].strip().lower() == b"https"


def _address(entry: bytes) -> Address | None:
    form = _FORM.fullmatch(entry)
    if form is None:
        return None
    try:
        address = ipaddress.ip_address(form[form.lastindex or 0].decode())
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address
