"""Fetching a file by a URL that a caller sent, without becoming the caller's hands inside our network.

Only hosts that the operator allows are asked, on the web's own ports. A name is resolved once, by the connector itself, and
the connection goes to the addresses that were checked, so an answer of the name server that changes meanwhile changes
nothing. Each redirection passes the same checks. No credential, cookie or proxy of ours is used.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from phalanx.errors import DeadlineExceeded, InvalidRequest, PhalanxError, TooLarge, UnreadableInput, UpstreamFailed

MAX_URL_CHARS = 2048
MAX_REDIRECTS = 3
TIMEOUT_S = 5.0
WEB_PORTS = frozenset({80, 443})
REDIRECTS = frozenset({301, 302, 303, 307, 308})
CHUNK_BYTES = 64 * 1024
HEADERS = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "Phalanx"}

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
        self, look_up: Lookup, may_ask: Callable[[Address], bool], refusal: Callable[[], PhalanxError] | None = None
    ) -> None:
        """`refusal` words what is raised for an address that may not be asked."""
        self._look_up = look_up
        self._may_ask = may_ask
        self._refusal = refusal or not_allowed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the host's addresses. Raises `InvalidRequest` for one that may not be asked."""
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


class AllowedHosts:
    """Hosts that may be asked: `name`, or `.name` for what is below it but not itself, each on `ports`, or `name:port`."""

    def __init__(self, allow: Collection[str], ports: Collection[int] = WEB_PORTS) -> None:
        names: dict[str, set[int]] = {}
        for entry in allow:
            # What has several colons is an address of IPv6, which has none of a port.
            name, colon, port = entry.partition(":") if entry.count(":") == 1 else (entry, "", "")
            names.setdefault(name.lower().rstrip("."), set()).update([int(port)] if colon else ports)
        self._hosts = {name: ports for name, ports in names.items() if not name.startswith(".")}
        self._domains = {name: ports for name, ports in names.items() if name.startswith(".")}

    def admit(self, url: URL, may_ask: Callable[[Address], bool]) -> bool:
        """Whether a URL's host and port are among them, and its address may be asked, if the host is one."""
        name = (url.raw_host or "").lower().rstrip(".")
        below = (ports for domain, ports in self._domains.items() if name.endswith(domain))
        if not any(url.port in ports for ports in (self._hosts.get(name, ()), *below)):
            return False
        # The connector does not resolve what is an address already.
        address = _literal(name)
        return address is None or may_ask(address)


class Fetcher:
    """Fetches images. `allow` are hosts; a leading dot admits subdomains, not the domain itself.

    `look_up`, `may_ask` and `ports` are what the tests replace, since their servers listen on loopback.
    """

    def __init__(
        self,
        allow: Collection[str],
        *,
        max_bytes: int,
        timeout_s: float = TIMEOUT_S,
        look_up: Lookup = lookup,
        may_ask: Callable[[Address], bool] = is_public,
        ports: Collection[int] = WEB_PORTS,
    ) -> None:
        self._hosts = AllowedHosts(allow, ports)
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._resolver = CheckedResolver(look_up, may_ask)
        self._may_ask = may_ask
        self._session: aiohttp.ClientSession | None = None

    async def fetch(self, text: str, *, within_s: float | None = None) -> bytes:
        """Return the image that a URL names.

        Raises `InvalidRequest` for a URL that may not be asked, `UnreadableInput` for what is no image, `TooLarge`,
        `UpstreamFailed` when the host does not answer properly, `DeadlineExceeded` when it takes longer than
        `within_s` seconds, or than the fetcher's own time-out.
        """
        limit = self._timeout_s if within_s is None else max(0.0, min(self._timeout_s, within_s))
        try:
            async with asyncio.timeout(limit):
                return await self._follow(self._checked(text))
        except TimeoutError:
            raise DeadlineExceeded(f"the image did not arrive within {limit:.1f} s", param="image") from None
        except (aiohttp.ClientError, OSError, ValueError):
            raise failed("it could not be reached") from None

    async def close(self) -> None:
        """Close what is open."""
        if self._session is not None:
            await self._session.close()

    async def _follow(self, url: URL) -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            async with self._open().get(url, allow_redirects=False) as answer:
                if answer.status not in REDIRECTS:
                    return await self._read(answer)
                place = answer.headers.get("Location", "")
            try:
                url = self._checked(str(url.join(URL(place))))
            except ValueError:
                raise failed("it redirects to what is no URL") from None
        raise failed(f"it redirects more than {MAX_REDIRECTS} times")

    async def _read(self, answer: aiohttp.ClientResponse) -> bytes:
        if answer.status != 200:
            raise failed(f"it answered {answer.status}")
        if not answer.content_type.startswith("image/"):
            raise UnreadableInput(f"the image's host sent {answer.content_type[:64]}, not an image", param="image")
        if answer.content_length is not None and answer.content_length > self._max_bytes:
            raise self._too_large(answer.content_length)
        data = bytearray()
        async for chunk in answer.content.iter_chunked(CHUNK_BYTES):
            data += chunk
            if len(data) > self._max_bytes:
                raise self._too_large(len(data))
        return bytes(data)

    def _too_large(self, size: int) -> TooLarge:
        return TooLarge(f"the image has {size} bytes or more, {self._max_bytes} are allowed", param="image")

    def _checked(self, text: str) -> URL:
        """Return a URL that may be asked, except that its name is yet to be resolved."""
        if len(text) > MAX_URL_CHARS:
            raise InvalidRequest(f"the URL has more than {MAX_URL_CHARS} characters", param="image")
        try:
            url = URL(text)
            host = url.raw_host
        except ValueError:
            raise InvalidRequest("the image's URL cannot be read", param="image") from None
        if url.scheme not in ("http", "https") or not host:
            raise InvalidRequest("an image's URL starts with http:// or https:// and a host", param="image")
        if url.user is not None or url.password is not None:
            raise InvalidRequest("an image's URL holds no user or password", param="image")
        if not self._hosts.admit(url, self._may_ask):
            raise not_allowed()
        return url

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = open_session(self._resolver, HEADERS)
        return self._session


def open_session(resolver: AbstractResolver, headers: Mapping[str, str]) -> aiohttp.ClientSession:
    """Return a session for URLs that callers sent: each connection is to an address that the resolver has checked, without
    cookies, the environment's proxies, or what expands.
    """
    connector = aiohttp.TCPConnector(resolver=resolver, use_dns_cache=False, force_close=True, limit=32)
    return aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar(), headers=headers, trust_env=False, auto_decompress=False,
        raise_for_status=False, max_line_size=8190, max_field_size=8190,
    )  # fmt: skip


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def not_allowed() -> PhalanxError:
    """Word a refusal. It does not tell whether the name or the address is at fault: that would map our network."""
    return InvalidRequest(
        "images are not fetched from that host; IMAGE_URL_ALLOW names those that are asked", param="image"
    )


def failed(what: str) -> UpstreamFailed:
    """Word a host that does not answer as it should."""
    return UpstreamFailed(f"the image's host failed: {what}", param="image")
