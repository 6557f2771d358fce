"""Header fields: by name, and what becomes of one that comes more than once."""

from __future__ import annotations

from collections.abc import Iterable

from phalanx.errors import InvalidRequest

Field = tuple[bytes, bytes]
"""A name in lower case and its value."""

SINGLE = frozenset(
    {
        b"access-control-request-method", b"authorization", b"content-length", b"content-type", b"host",
        b"idempotency-key", b"origin", b"x-api-key",
    }
)  # fmt: skip
"""Fields of which a request has one. Taking the first or the last of two would be a guess that a proxy in front may have
made the other way, and with it what it let through."""


def fold(fields: Iterable[Field]) -> dict[bytes, bytes]:
    """Return values by name, those of a repeated field joined by commas in their order (RFC 9110 §5.3).

    Raises `InvalidRequest` for a repeated field of `SINGLE`.
    """
    folded: dict[bytes, bytes] = {}
    for name, value in fields:
        before = folded.get(name)
        if before is not None and name in SINGLE:
            raise InvalidRequest(f"the header {name.decode('latin-1')} was sent more than once; send it once")
        folded[name] = value if before is None else b"%b, %b" % (before, value)
    return folded
