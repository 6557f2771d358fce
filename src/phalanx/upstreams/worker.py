"""Asking a running worker over HTTP, as its command line does."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

from phalanx.errors import ERRORS, DeadlineExceeded, InvalidRequest, PhalanxError, Unavailable, UpstreamFailed
from phalanx.settings import Secret

TIMEOUT_S = 120.0
MAX_ANSWER_BYTES = 64 * 2**20


class WorkerClient:
    """Calls one worker's canonical routes. `url` is its root; `key` an API key or token, sent as a bearer token.

    Use it as an async context manager, on one loop.
    """

    def __init__(self, url: str, key: Secret | None = None, *, timeout_s: float = TIMEOUT_S) -> None:
        try:
            self._root = URL(url.rstrip("/"))
            host = self._root.raw_host
        except ValueError:
            host = None
        if not host or self._root.scheme not in ("http", "https"):
            raise InvalidRequest(f"{url!r} is no worker's address; it starts with http:// or https:// and a host")
        self._headers = {"Accept": "application/json"}
        if key is not None:
            self._headers["Authorization"] = f"Bearer {key}"
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> WorkerClient:
        self._session = aiohttp.ClientSession(
            headers=self._headers, cookie_jar=aiohttp.DummyCookieJar(), trust_env=True,
            timeout=aiohttp.ClientTimeout(total=self._timeout_s),
        )  # fmt: skip
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def call(self, method: str, path: str, body: bytes | None) -> bytes:
        """Send one request, a JSON object if any, and return the answer's body.

        Raises the error that the worker names, `Unavailable` when it does not answer, `DeadlineExceeded` when it takes too
        long, and `UpstreamFailed` for an answer that is no worker's.
        """
        assert self._session is not None
        headers = {"Content-Type": "application/json"} if body is not None else {}
        try:
            async with self._session.request(
                method, self._root.joinpath(path.lstrip("/"), encoded=True), data=body, headers=headers,
                allow_redirects=False,
            ) as answer:  # fmt: skip
                data = await answer.content.read(MAX_ANSWER_BYTES + 1)
                while len(data) <= MAX_ANSWER_BYTES and (more := await answer.content.read(MAX_ANSWER_BYTES)):
                    data += more
                if len(data) > MAX_ANSWER_BYTES:
                    raise UpstreamFailed("the worker's answer is larger than an answer can be")
                if 200 <= answer.status < 300:
                    return data
                raise _failure(answer.status, data, answer.headers.get("Retry-After"))
        except TimeoutError:
            raise DeadlineExceeded(f"the worker did not answer within {self._timeout_s:.0f} s") from None
        except (aiohttp.ClientError, OSError):
            raise Unavailable(f"no worker answers at {self._root}") from None


def fill_path(path: str, fields: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Put the `{parameters}` of a row's path in; return it with the fields that are left for the body."""
    rest = dict(fields)
    for name in list(rest):
        if f"{{{name}}}" in path:
            path = path.replace(f"{{{name}}}", quote(str(rest.pop(name)), safe=""))
    return path, rest


def _failure(status: int, data: bytes, retry_after: str | None) -> PhalanxError:
    """Return the error that a problem document (RFC 9457) names."""
    try:
        problem: Any = msgspec.json.decode(data)
        kind = ERRORS[problem["code"]]
        detail = str(problem.get("detail", ""))
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
        return UpstreamFailed(f"the worker answered {status}, and not as a Phalanx worker does")
    return kind(detail, retry_after_s=float(retry_after) if retry_after and retry_after.isdigit() else None)
