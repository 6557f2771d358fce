"""Headers to a credential, once, for all routes."""

from __future__ import annotations

from phalanx.errors import Unauthenticated
from phalanx.services.ticket import Credential
from phalanx.settings import Secret

MAX_CREDENTIAL_CHARS = 8192


def credential_of(headers: dict[bytes, bytes], address: str) -> Credential:
    """Return what the caller sent as `Authorization: Bearer` or `X-API-Key`. Raises `Unauthenticated` for other schemes.

    A bearer token wins over the header of a key, as in the systems that people move from.
    """
    authorization = headers.get(b"authorization")
    raw = headers.get(b"x-api-key", b"")
    if authorization is not None:
        scheme, _, token = authorization.partition(b" ")
        if scheme.lower() != b"bearer":
            raise Unauthenticated("the Authorization header has another scheme; send 'Authorization: Bearer <key>'")
        raw = token.strip()
    if len(raw) > MAX_CREDENTIAL_CHARS:
        raise Unauthenticated(f"the credential has {len(raw)} characters, {MAX_CREDENTIAL_CHARS} are allowed")
    if not raw:
        return Credential("none", address=address)
    return Credential("key", Secret(raw.decode("latin-1")), address)
