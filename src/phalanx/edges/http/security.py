"""Headers that tell browsers what not to do with an answer, and the rule that nothing is served in clear."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from phalanx.edges.fields import Field
from phalanx.errors import TlsRequired

SECURITY_HEADERS: tuple[Field, ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
"""On every answer, whoever gives it: no guessing of types, no address of ours to other sites, no embedding by them. Pages
that may call by CORS are not concerned by the last."""

NO_STORE: Field = (b"cache-control", b"no-store")
"""Answers are somebody's: vectors of their texts, their keys, their usage."""

HSTS: Field = (b"strict-transport-security", b"max-age=31536000")
"""A year, for this host alone: what its subdomains do is not ours to say (RFC 6797)."""

_HOST = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{1,5})?")


class HttpsOnly:
    """Sends those who come in clear to the same place over TLS, or away.

    `public_url` is where callers see the worker; without it, its address is the one that the caller used, at the usual
    port: the port of the plain address speaks no TLS.
    """

    def __init__(self, public_url: str = "") -> None:
        parts = urlsplit(public_url)
        place = parts.netloc.rpartition("@")[2] if parts.scheme == "https" else _host_of(parts.netloc)
        self._place = place.encode()

    def redirection(self, scope: Mapping[str, Any], headers: Mapping[bytes, bytes]) -> Field:
        """Return where a GET or HEAD is to be sent again. Raises `TlsRequired` for others: those have sent their body."""
        if scope["method"] not in ("GET", "HEAD"):
            raise TlsRequired(
                "this worker is called over https only; what was sent went unencrypted, so replace any key, token or "
                "password that it held"
            )
        place = self._place or _host_of(headers.get(b"host", b"").decode("latin-1")).encode()
        path: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
        if not place or not path.startswith(b"/"):
            raise TlsRequired("this worker is called over https only")
        query: bytes = scope["query_string"]
        return b"location", b"https://%b%b%b" % (place, path, b"?" + query if query else b"")


def _host_of(place: str) -> str:
    """Return the host of `host:port`; empty for what is no host."""
    found = _HOST.fullmatch(place)
    return found[1] if found else ""
