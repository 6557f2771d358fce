"""Posting to a URL that a caller sent, only on hosts and addresses that the operator allows; see `allowed`."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from ipaddress import IPv4Network, IPv6Network

import aiohttp
from yarl import URL

from phalanx.errors import UpstreamFailed
from phalanx.upstreams.allowed import Address, AllowedWeb, Lookup, is_public, lookup

TIMEOUT_S = 10.0
HEADERS = {"Content-Type": "application/json", "User-Agent": "Phalanx"}
GONE = 410
NOT_ALLOWED = "webhooks are not sent to that host; WEBHOOK_ALLOW names those that are"


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
        inner = tuple(networks)

        def may_ask(address: Address) -> bool:
            return is_public(address) or any(address in network for network in inner)

        self._web = AllowedWeb(
            allow, param="webhook", refusal=NOT_ALLOWED, headers=HEADERS, look_up=look_up, may_ask=may_ask
        )
        self._timeout_s = timeout_s

    def check(self, text: str) -> URL:
        """Return a URL that may be posted to, except that its name is yet to be resolved. Raises `InvalidRequest`."""
        return self._web.check(text)

    async def post(self, text: str, headers: Mapping[str, str], body: bytes) -> bool:
        """Post JSON. Returns False where the host says that it wants no more (410).

        Raises `InvalidRequest` where the address may not be asked, `UpstreamFailed` for what is no 2xx (redirections are not
        followed) and for a host that cannot be reached or does not answer in time.
        """
        url = self.check(text)
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._web.session().post(url, data=body, headers=dict(headers), allow_redirects=False) as answer,
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
        await self._web.close()
