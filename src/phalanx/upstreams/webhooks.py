"""Posting to a URL that a caller sent, only on hosts and addresses that the operator allows; see `fetch` for the reasons."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from ipaddress import IPv4Network, IPv6Network

import aiohttp
from yarl import URL

from phalanx.errors import InvalidRequest, PhalanxError, UpstreamFailed
from phalanx.upstreams.fetch import (
    MAX_URL_CHARS,
    Address,
    AllowedHosts,
    CheckedResolver,
    Lookup,
    is_public,
    lookup,
    open_session,
)

TIMEOUT_S = 10.0
HEADERS = {"Content-Type": "application/json", "User-Agent": "Phalanx"}
GONE = 410


class Poster:
    """Posts messages. `allow` are hosts, as for images, with a port where it is not the web's; `networks` may be asked
    though they are not of the open internet.
    """

    def __init__(
        self,
        allow: Collection[str],
        networks: Collection[IPv4Network | IPv6Network] = (),
        *,
        timeout_s: float = TIMEOUT_S,
        look_up: Lookup = lookup,
    ) -> None:
        self._hosts = AllowedHosts(allow)
        self._networks = tuple(networks)
        self._timeout_s = timeout_s
        self._resolver = CheckedResolver(look_up, self._may_ask, not_allowed)
        self._session: aiohttp.ClientSession | None = None

    def check(self, text: str) -> URL:
        """Return a URL that may be posted to, except that its name is yet to be resolved. Raises `InvalidRequest`."""
        if len(text) > MAX_URL_CHARS:
            raise InvalidRequest(f"the URL has more than {MAX_URL_CHARS} characters", param="webhook")
        try:
            url = URL(text)
            host = url.raw_host
        except ValueError:
            raise InvalidRequest("the webhook's URL cannot be read", param="webhook") from None
        if url.scheme not in ("http", "https") or not host:
            raise InvalidRequest("a webhook's URL starts with http:// or https:// and a host", param="webhook")
        if url.user is not None or url.password is not None:
            raise InvalidRequest("a webhook's URL holds no user or password", param="webhook")
        if not self._hosts.admit(url, self._may_ask):
            raise not_allowed()
        return url

    async def post(self, text: str, headers: Mapping[str, str], body: bytes) -> bool:
        """Post JSON. Returns False where the host says that it wants no more (410).

        Raises `InvalidRequest` where the address may not be asked, `UpstreamFailed` for what is no 2xx (redirections are not
        followed) and for a host that cannot be reached or does not answer in time.
        """
        url = self.check(text)
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._open().post(url, data=body, headers=dict(headers), allow_redirects=False) as answer,
            ):
                status = answer.status
        except TimeoutError:
            raise UpstreamFailed(f"it did not answer within {self._timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise UpstreamFailed(f"it could not be reached: {type(error).__name__}") from None
        if not 200 <= status < 300 and status != GONE:
            raise UpstreamFailed(f"it answered {status}")
        return status != GONE

    async def close(self) -> None:
        """Close what is open."""
        if self._session is not None:
            await self._session.close()

    def _may_ask(self, address: Address) -> bool:
        return is_public(address) or any(address in network for network in self._networks)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = open_session(self._resolver, HEADERS)
        return self._session


def not_allowed() -> PhalanxError:
    """Word a refusal, which does not tell whether the name or the address is at fault."""
    return InvalidRequest("webhooks are not sent to that host; WEBHOOK_ALLOW names those that are", param="webhook")
