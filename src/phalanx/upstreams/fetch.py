"""Fetching an image by a URL that a caller sent. Each redirection passes the same checks: see `allowed`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

import aiohttp
from yarl import URL

from phalanx.errors import DeadlineExceeded, TooLarge, UnreadableInput, UpstreamFailed
from phalanx.upstreams.allowed import WEB_PORTS, Address, AllowedWeb, Lookup, is_public, lookup

MAX_REDIRECTS = 3
TIMEOUT_S = 5.0
REDIRECTS = frozenset({301, 302, 303, 307, 308})
CHUNK_BYTES = 64 * 1024
HEADERS = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "Phalanx"}
NOT_ALLOWED = "images are not fetched from that host; IMAGE_URL_ALLOW names those that are asked"


class Fetcher:
    """Fetches images from the hosts that `allow` names.

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
        self._web = AllowedWeb(
            allow, param="image", refusal=NOT_ALLOWED, headers=HEADERS, look_up=look_up, may_ask=may_ask, ports=ports
        )
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s

    async def fetch(self, text: str, *, within_s: float | None = None) -> bytes:
        """Return the image that a URL names.

        Raises `InvalidRequest` for a URL that may not be asked, `UnreadableInput` for what is no image, `TooLarge`,
        `UpstreamFailed` when the host does not answer properly, `DeadlineExceeded` when it takes longer than
        `within_s` seconds, or than the fetcher's own time-out.
        """
        limit = self._timeout_s if within_s is None else max(0.0, min(self._timeout_s, within_s))
        try:
            async with asyncio.timeout(limit):
                return await self._follow(self._web.check(text))
        except TimeoutError:
            raise DeadlineExceeded(f"the image did not arrive within {limit:.1f} s", param="image") from None
        except (aiohttp.ClientError, OSError, ValueError):
            raise failed("it could not be reached") from None

    async def close(self) -> None:
        """Close what is open."""
        await self._web.close()

    async def _follow(self, url: URL) -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            async with self._web.session().get(url, allow_redirects=False) as answer:
                if answer.status not in REDIRECTS:
                    return await self._read(answer)
                place = answer.headers.get("Location", "")
            try:
                url = self._web.check(str(url.join(URL(place))))
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


def failed(what: str) -> UpstreamFailed:
    """Word a host that does not answer as it should."""
    return UpstreamFailed(f"the image's host failed: {what}", param="image")
