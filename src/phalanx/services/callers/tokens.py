"""The two tokens of a session: an access token, which says who calls, and a refresh token, which brings new ones.

An access token is a JWT (RFC 9068) that any worker can verify by itself. A refresh token is opaque, and worth as much as
the row of its session says: it holds the session's id and counter under a MAC by the session's own secret, so that one
row does for all tokens of a session. Its form is the second version of GoTrue's (`internal/crypto/refresh_tokens.go`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import uuid
from collections import OrderedDict
from typing import Literal, NamedTuple

import jwt
import msgspec
from msgspec import Struct

from phalanx.contract.users import SessionRecord
from phalanx.errors import Unauthenticated
from phalanx.ports import Clock
from phalanx.services.callers.signing import SigningKey, SigningKeys
from phalanx.settings import Secret

TYPE = "at+jwt"
MAX_ACCESS_CHARS = 4096
LEEWAY_S = 5.0
"""How far the clocks of two workers may be apart."""
MAX_VERIFIED = 10_000

VERSION = b"\x00"
UUID_BYTES = 16
MAC_BYTES = 16
CHECKSUM_BYTES = 4
MAX_REFRESH_CHARS = 64
NOT_WHOLE = "this is no refresh token; check that it was copied whole"

WIRE_NAMES = {
    "issuer": "iss", "audience": "aud", "user_id": "sub", "session_id": "sid", "organisation": "org",
    "issued_at": "iat", "not_before": "nbf", "expires_at": "exp", "use": "token_use",
}  # fmt: skip


class AccessClaims(Struct, frozen=True, kw_only=True, rename=WIRE_NAMES):
    """What an access token says. Times are whole epoch seconds."""

    issuer: str
    audience: str
    user_id: str
    session_id: str
    organisation: str
    issued_at: int
    not_before: int
    expires_at: int
    use: Literal["access"]


class TokenSigner:
    """Signs access tokens with today's key."""

    def __init__(self, keys: SigningKeys, *, issuer: str, clock: Clock) -> None:
        """`issuer` is also whom the tokens are for: nobody else accepts them."""
        self._key = keys.current
        self._issuer = issuer
        self._clock = clock
        self._jws = jwt.PyJWS(algorithms=[self._key.algorithm])

    def sign(self, session: SessionRecord, *, expires_at: float) -> Secret:
        """Return an access token for a session, good from now until `expires_at` (epoch seconds)."""
        now = int(self._clock.now())
        claims = AccessClaims(
            issuer=self._issuer, audience=self._issuer, user_id=session.user_id, session_id=session.id,
            organisation=session.organisation, issued_at=now, not_before=now, expires_at=int(expires_at),
            use="access",
        )  # fmt: skip
        header = {"typ": TYPE, "kid": self._key.kid}
        payload = msgspec.json.encode(claims)
        return Secret(self._jws.encode(payload, self._key.private, self._key.algorithm, headers=header))


class TokenVerifier:
    """Verifies access tokens, and remembers by digest the ten thousand verified last: a signature costs 66 µs, a look-up 1.

    The key that a token names decides the algorithm, whatever else the token says, and only keys of ours count: not
    those that a header brings along or points to (RFC 8725 §3.1, §3.10). Whether its session still stands is for others.
    """

    def __init__(self, keys: SigningKeys, *, issuer: str, clock: Clock) -> None:
        self._keys = keys.accepted
        self._issuer = issuer
        self._clock = clock
        self._jws = jwt.PyJWS(algorithms=[*{key.algorithm for key in keys.accepted.values()}])
        self._verified: OrderedDict[bytes, AccessClaims] = OrderedDict()

    def verify(self, text: str) -> AccessClaims:
        """Return what a token says. Raises `Unauthenticated` for one that is not ours, not for here, or not of now."""
        if len(text) > MAX_ACCESS_CHARS:
            raise Unauthenticated(f"an access token has up to {MAX_ACCESS_CHARS} characters; this has {len(text)}")
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        claims = self._verified.get(digest)
        if claims is None:
            claims = self._check(text)
            self._keep(digest, claims)
        now = self._clock.now()
        if now >= claims.expires_at + LEEWAY_S:
            self._verified.pop(digest, None)
            raise Unauthenticated("the access token has expired; refresh it")
        if now < claims.not_before - LEEWAY_S:
            raise Unauthenticated("the access token is not valid yet")
        return claims

    def _check(self, text: str) -> AccessClaims:
        """Verify all but the time."""
        try:
            header = self._jws.get_unverified_header(text)
            key = self._key_of(header)
            payload = self._jws.decode(text, key.public, algorithms=[key.algorithm])
        except jwt.InvalidAlgorithmError:
            raise Unauthenticated("the access token is signed by another algorithm than its key's") from None
        except jwt.InvalidSignatureError:
            raise Unauthenticated("the access token's signature is wrong") from None
        except (jwt.PyJWTError, UnicodeEncodeError):
            raise Unauthenticated("the access token is not well formed; check that it was copied whole") from None
        if header.get("typ") != TYPE:
            raise Unauthenticated("this token is not an access token")
        try:
            claims = msgspec.json.decode(payload, type=AccessClaims)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise Unauthenticated("the token does not say what an access token says") from None
        if claims.issuer != self._issuer:
            raise Unauthenticated("the access token was issued by somebody else")
        if claims.audience != self._issuer:
            raise Unauthenticated("the access token is for somebody else")
        return claims

    def _key_of(self, header: dict[str, object]) -> SigningKey:
        kid = header.get("kid")
        key = self._keys.get(kid) if isinstance(kid, str) else None
        if key is None:
            raise Unauthenticated("the access token is signed by no key that is in use here")
        return key

    def _keep(self, digest: bytes, claims: AccessClaims) -> None:
        self._verified[digest] = claims
        if len(self._verified) > MAX_VERIFIED:
            self._verified.popitem(last=False)


class RefreshToken(NamedTuple):
    """What a refresh token says, and its MAC, which is not verified yet."""

    session_id: str
    counter: int
    mac: bytes

    def is_genuine(self, session: SessionRecord) -> bool:
        """Whether this worker, or one beside it, issued the token."""
        return hmac.compare_digest(self.mac, _mac(_statement(session.id, self.counter), session.secret))


def refresh_token(session: SessionRecord) -> Secret:
    """Return the refresh token for where a session's counter stands.

    In base64url: a version byte, the session's UUID, the counter as a varint, 16 bytes of HMAC-SHA-256 over these, and
    as a checksum 4 bytes of SHA-256 over all.
    """
    statement = _statement(session.id, session.counter)
    signed = statement + _mac(statement, session.secret)
    return Secret(base64.urlsafe_b64encode(signed + _checksum(signed)).rstrip(b"=").decode())


def read_refresh_token(text: str) -> RefreshToken:
    """Return what a refresh token says. Raises `Unauthenticated` for another text, before any look-up."""
    raw = _decode(text) if len(text) <= MAX_REFRESH_CHARS else None
    if raw is None or raw[:1] != VERSION:
        raise Unauthenticated(NOT_WHOLE)
    signed, checksum = raw[:-CHECKSUM_BYTES], raw[-CHECKSUM_BYTES:]
    statement, mac = signed[:-MAC_BYTES], signed[-MAC_BYTES:]
    if len(statement) < 1 + UUID_BYTES + 1 or _checksum(signed) != checksum:
        raise Unauthenticated(NOT_WHOLE)
    session_id = str(uuid.UUID(bytes=statement[1 : 1 + UUID_BYTES]))
    token = RefreshToken(session_id, _read_varint(statement[1 + UUID_BYTES :]), mac)
    # One token has one text: other ways to write the same number are not ours.
    if _statement(session_id, token.counter) != statement:
        raise Unauthenticated(NOT_WHOLE)
    return token


def _decode(text: str) -> bytes | None:
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() == text else None


def _statement(session_id: str, counter: int) -> bytes:
    return VERSION + uuid.UUID(session_id).bytes + _varint(counter)


def _mac(statement: bytes, secret: bytes) -> bytes:
    return hmac.digest(secret, statement, "sha256")[:MAC_BYTES]


def _checksum(signed: bytes) -> bytes:
    return hashlib.sha256(signed).digest()[:CHECKSUM_BYTES]


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the top bit says that more follow."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _read_varint(raw: bytes) -> int:
    return sum((byte & 0x7F) << (7 * place) for place, byte in enumerate(raw))
