"""Headers to a credential, once, for all routes."""

from __future__ import annotations

from phalanx.errors import Unauthenticated
from phalanx.services.ticket import Credential
from phalanx.settings import Secret

MAX_CREDENTIAL_CHARS = 8192
MAX_USER_AGENT_CHARS = 256


def credential_of(headers: dict[bytes, bytes], address: str) -> Credential:
    """Return what the caller sent as `Authorization: Bearer` or `X-API-Key`. Raises `Unauthenticated` for other schemes.

    A bearer token wins over the header of a key, as in the systems that people move from. `address` is the caller's own,
    not a proxy's.
    """
    authorization = headers.get(b"authorization")
    raw = headers.get(b"x-api-key", b"")
    agent = _printable(headers.get(b"user-agent", b""))
    if authorization is not None:
        scheme, _, token = authorization.partition(b" ")
        if scheme.lower() != b"bearer":
            raise Unauthenticated("the Authorization header has another scheme; send 'Authorization: Bearer <key>'")
        raw = token.strip()
    if len(raw) > MAX_CREDENTIAL_CHARS:
        raise Unauthenticated(f"the credential has {len(raw)} characters, {MAX_CREDENTIAL_CHARS} are allowed")
    if not raw:
        return Credential("none", Secret(), address, agent)
    return Credential("key", Secret(raw.decode("latin-1")), address, agent)


def _printable(raw: bytes) -> str:
    """Return what a client calls itself, fit to be kept and shown: cut, and with `?` for what cannot be printed."""
    text = raw[:MAX_USER_AGENT_CHARS].decode("utf-8", "replace")
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)
