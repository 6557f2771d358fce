"""URLs that callers sent: asking them without becoming the caller's hands inside our network.

Only hosts that the operator allows are asked, on the web's own ports. A name is resolved once, by the connector itself, and
the connection goes to the addresses that were checked, so an answer of the name server that changes meanwhile changes
nothing. No credential, cookie or proxy of ours is used.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from phalanx.errors import InvalidRequest, PhalanxError

MAX_URL_CHARS = 2048
WEB_PORTS = frozenset({80, 443})

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Lookup = Callable[[str, int], Awaitable[Sequence[str]]]
"""A host's name and port to its addresses, as text. Raises `OSError`."""

UNICAST = ipaddress.ip_network("2000::/3")
"""The one part of IPv6 that is given out for the open internet (RFC 4291 §2.4); NAT64, mapped and site-local lie outside."""

NOT_SERVERS = tuple(map(ipaddress.ip_network, ("192.88.99.0/24", "2001::/32", "2002::/16", "3fff::/20")))
"""What Python takes for global all the same: relays of 6to4, Teredo and 6to4, documentation (RFC 9637)."""


def is_public(address: Address) -> bool:
    """Whether an address is one of the open internet: not private, shared (CGNAT), loopback, link-local, multicast or reserved."""
    if any(address in network for network in NOT_SERVERS) or (address.version == 6 and address not in UNICAST):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


async def lookup(host: str, port: int) -> Sequence[str]:
    """Ask the system's resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(sockaddr[0]) for *_, sockaddr in found]


class CheckedResolver(AbstractResolver):
    """Resolves a name for aiohttp's connector, and refuses it when any of its addresses may not be asked."""

    def __init__(
        self, look_up: Lookup, may_ask: Callable[[Address], bool], refusal: Callable[[], PhalanxError]
    ) -> None:
        self._look_up = look_up
        self._may_ask = may_ask
        self._refusal = refusal

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the host's addresses. Raises the refusal for one that may not be asked, `OSError` where there is none."""
        found = [ipaddress.ip_address(text.partition("%")[0]) for text in await self._look_up(host, port)]
        if not found:
            raise OSError("the name has no address")
        if not all(map(self._may_ask, found)):
            raise self._refusal()
        return [
            ResolveResult(
                hostname=host, host=str(address), port=port, proto=socket.IPPROTO_TCP, flags=socket.AI_NUMERICHOST,
                family=socket.AF_INET if address.version == 4 else socket.AF_INET6,
            )
            for address in found
        ]  # fmt: skip

    async def close(self) -> None:
        """Nothing is held."""


class AllowedWeb:
    """The hosts that may be asked, and connections to them.

    `allow` names them: `name`, or `.name` for what is below it but not itself, each on `ports`, or `name:port`. `may_ask`
    says to which addresses a connection may go. `param` is the field of the request that held the URL, as errors name it;
    `refusal` words what is raised for a host, and should not tell whether the name or the address is at fault, which would
    map our network. `headers` go with every request.
    """

    def __init__(
        self,
        allow: Collection[str],
        *,
        param: str,
        refusal: str,
        headers: Mapping[str, str],
        look_up: Lookup = lookup,
        may_ask: Callable[[Address], bool] = is_public,
        ports: Collection[int] = WEB_PORTS,
    ) -> None:
        names: dict[str, set[int]] = {}
        for entry in allow:
            # What has several colons is an address of IPv6, which has none of a port.
            name, colon, port = entry.partition(":") if entry.count(":") == 1 else (entry, "", "")
            names.setdefault(name.lower().rstrip("."), set()).update([int(port)] if colon else ports)
        self._hosts = {name: ports for name, ports in names.items() if not name.startswith(".")}
        self._domains = {name: ports for name, ports in names.items() if name.startswith(".")}
        self._param = param
        self._refusal = refusal
        self._headers = headers
        self._look_up = look_up
        self._may_ask = may_ask
        self._session: aiohttp.ClientSession | None = None

    def check(self, text: str) -> URL:
        """Return a URL that may be asked, except that its name is yet to be resolved. Raises `InvalidRequest`."""
        if len(text) > MAX_URL_CHARS:
            raise self._invalid(f"the URL has more than {MAX_URL_CHARS} characters")
        try:
            url = URL(text)
            host = url.raw_host
        except ValueError:
            raise self._invalid(f"the {self._param}'s URL cannot be read") from None
        if url.scheme not in ("http", "https") or not host:
            raise self._invalid(f"the {self._param}'s URL has to start with http:// or https:// and a host")
        if url.user is not None or url.password is not None:
            raise self._invalid(f"the {self._param}'s URL may hold no user or password")
        if not self._admits(url):
            raise self._not_allowed()
        return url

    def session(self) -> aiohttp.ClientSession:
        """Return the session for what was checked: each connection is to an address that the resolver has checked, without
        cookies, the environment's proxies, or what expands.
        """
        if self._session is None:
            resolver = CheckedResolver(self._look_up, self._may_ask, self._not_allowed)
            connector = aiohttp.TCPConnector(resolver=resolver, use_dns_cache=False, force_close=True, limit=32)
            self._session = aiohttp.ClientSession(
                connector=connector, cookie_jar=aiohttp.DummyCookieJar(), headers=self._headers, trust_env=False,
                auto_decompress=False, raise_for_status=False, max_line_size=8190, max_field_size=8190,
            )  # fmt: skip
        return self._session

    async def close(self) -> None:
        """Close what is open."""
        if self._session is not None:
            await self._session.close()

    def _admits(self, url: URL) -> bool:
        """Whether a URL's host and port are allowed, and its address may be asked, if the host is one."""
        name = (url.raw_host or "").lower().rstrip(".")
        below = (ports for domain, ports in self._domains.items() if name.endswith(domain))
        if not any(url.port in ports for ports in (self._hosts.get(name, ()), *below)):
            return False
        # The connector does not resolve what is an address already.
        address = _literal(name)
        return address is None or self._may_ask(address)

    def _invalid(self, why: str) -> PhalanxError:
        return InvalidRequest(why, param=self._param)

    def _not_allowed(self) -> PhalanxError:
        return self._invalid(self._refusal)


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
