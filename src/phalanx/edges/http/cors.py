"""Which web pages of other origins may call, and what browsers are told of it (the Fetch standard, §3.2).

Everything that is sent is made at the start; a request without `Origin` is not looked at. An origin that may not call gets
no word of this: its request is answered as if there were no browser, which then keeps the answer from the page.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from phalanx.edges.fields import Field

MAX_AGE_S = 7200
"""Seconds for which a browser keeps the answer to a preflight; Chromium keeps none for longer."""
MAX_ASKED_BYTES = 1024

EXPOSED = (
    "etag", "idempotency-replayed", "ratelimit", "ratelimit-policy", "retry-after", "server-timing", "x-model",
    "x-model-version", "x-quota-warning", "x-ratelimit-degraded", "x-ratelimit-limit", "x-ratelimit-remaining",
    "x-ratelimit-reset", "x-request-id", "x-simulated",
)  # fmt: skip
"""What `*` stands for where credentials are allowed: there browsers take it for a header's name."""

ALLOW_ORIGIN = b"access-control-allow-origin"
VARY: Field = (b"vary", b"origin")

_USUAL_PORTS = {"http": ":80", "https": ":443"}
_NAMES = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+(?:[ \t]*,[ \t]*[A-Za-z0-9!#$%&'*+.^_`|~-]+)*")


class Cors:
    """Cross-origin rules. Names of `*` allow all; raises `ValueError` for all origins with credentials."""

    def __init__(
        self,
        origins: Sequence[str],
        *,
        credentials: bool = False,
        methods: Sequence[str] = ("*",),
        headers: Sequence[str] = ("*",),
        expose: Sequence[str] = (),
    ) -> None:
        if credentials and "*" in origins:
            raise ValueError("credentials are for named origins only; * would share them with every page")
        exposed = EXPOSED if credentials and "*" in expose else expose
        rest: list[Field] = [(b"access-control-expose-headers", ", ".join(exposed).encode())] if exposed else []
        if credentials:
            rest.append((b"access-control-allow-credentials", b"true"))
        self._methods = frozenset(methods)
        self._headers = None if "*" in headers else ", ".join(headers).encode()
        self._admits_all = "*" in origins
        self._others: tuple[Field, ...] = ((ALLOW_ORIGIN, b"*"), *rest) if self._admits_all else (VARY,)
        self._named = {
            origin: ((ALLOW_ORIGIN, origin), *rest, VARY) for origin in map(_serialized, set(origins) - {"*"})
        }

    def answer(self, origin: bytes | None) -> tuple[Field, ...]:
        """Return what an answer to a request from `origin` carries; nothing for a request without one."""
        return self._named.get(origin, self._others) if origin is not None else ()

    def preflight(self, headers: Mapping[bytes, bytes], methods: Collection[str]) -> tuple[Field, ...] | None:
        """Return what the answer to a preflight of a route with `methods` carries beside `answer`.

        None when the request is no preflight, or its origin may not call.
        """
        origin = headers.get(b"origin")
        if origin is None or b"access-control-request-method" not in headers:
            return None
        if not self._admits_all and origin not in self._named:
            return None
        allowed = sorted(m for m in methods if "*" in self._methods or m in self._methods or m == "HEAD")
        names = self._names(headers.get(b"access-control-request-headers", b""))
        return (
            (b"access-control-allow-methods", ", ".join(allowed).encode()),
            *([(b"access-control-allow-headers", names)] if names else []),
            (b"access-control-max-age", b"%d" % MAX_AGE_S),
        )

    def _names(self, asked: bytes) -> bytes:
        """Return the headers that may be sent. All are told by name, since to browsers `*` leaves out Authorization."""
        if self._headers is not None:
            return self._headers
        return asked if len(asked) <= MAX_ASKED_BYTES and _NAMES.fullmatch(asked) else b""


def _serialized(origin: str) -> bytes:
    """Return an origin as browsers write it: in lower case, without the usual port of its scheme."""
    origin = origin.lower()
    scheme, _, host = origin.partition("://")
    return f"{scheme}://{host.removesuffix(_USUAL_PORTS[scheme])}".encode()
