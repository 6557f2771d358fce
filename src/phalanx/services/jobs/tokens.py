"""The token by which a queued job says who queued it: signed, and good for that one job only."""

from __future__ import annotations

from typing import NamedTuple

import jwt
import msgspec
from msgspec import Struct

from phalanx.errors import Unauthenticated
from phalanx.ports import Clock
from phalanx.services.callers.signing import SigningKeys
from phalanx.services.ticket import Caller, Task
from phalanx.settings import Secret

TYPE = "job+jwt"
AUDIENCE = "job"
MAX_TOKEN_CHARS = 4096
LIFETIME_S = 30 * 86_400.0
"""For how long a job may wait, its delay not counted."""
LEEWAY_S = 5.0

WIRE_NAMES = {
    "issuer": "iss", "audience": "aud", "key_id": "key", "session_id": "sid", "organisation": "org",
    "operation": "op", "job_id": "jti", "issued_at": "iat", "expires_at": "exp", "webhook": "hook",
}  # fmt: skip


class JobClaims(Struct, frozen=True, kw_only=True, rename=WIRE_NAMES, omit_defaults=True):
    """What a token says: a key's id or a user's session, of which organisation, for which job, and what is told of its end.

    Times in epoch seconds.
    """

    issuer: str
    audience: str
    organisation: str
    operation: str
    job_id: str
    issued_at: int
    expires_at: int
    key_id: str = ""
    session_id: str = ""
    webhook: str = ""


class Queued(NamedTuple):
    """Who queued a job: the id of a key, or else of a user's session."""

    key_id: str
    session_id: str
    organisation: str


class JobTokens:
    """Signs and verifies the tokens of jobs, with the keys that sign access tokens."""

    def __init__(self, keys: SigningKeys, *, issuer: str, clock: Clock) -> None:
        self._keys = keys
        self._issuer = issuer
        self._clock = clock
        algorithms = {keys.current.algorithm, *(key.algorithm for key in keys.accepted.values())}
        self._jws = jwt.PyJWS(algorithms=[*algorithms])

    def sign(self, caller: Caller, task: Task, *, delay_s: float = 0.0, webhook: str = "") -> Secret:
        """Return a token for a job that a caller queues, to run after `delay_s` seconds; `webhook` is told of its end."""
        now, key = int(self._clock.now()), self._keys.current
        claims = JobClaims(
            issuer=self._issuer, audience=AUDIENCE, organisation=caller.organisation, operation=task.operation,
            job_id=task.id, issued_at=now, expires_at=int(now + delay_s + LIFETIME_S), key_id=caller.key_id,
            session_id=caller.session_id, webhook=webhook,
        )  # fmt: skip
        header = {"typ": TYPE, "kid": key.kid}
        return Secret(self._jws.encode(msgspec.json.encode(claims), key.private, key.algorithm, headers=header))

    def verify(self, text: str, task: Task) -> Queued:
        """Return who queued a job. Raises `Unauthenticated` for a token that is not ours, of now, or of this job."""
        claims = self._claims(text)
        if claims.issuer != self._issuer or claims.audience != AUDIENCE:
            raise Unauthenticated("the token in _caller is not for jobs of this installation")
        if claims.job_id != task.id or claims.operation != task.operation:
            raise Unauthenticated("the token in _caller was made for another job")
        if self._clock.now() >= claims.expires_at + LEEWAY_S:
            raise Unauthenticated("the token in _caller has expired")
        return Queued(claims.key_id, claims.session_id, claims.organisation)

    def webhook(self, text: str, task: Task) -> str:
        """Return the URL that is told of a job's end: empty where the token names none, or is not of this job."""
        try:
            claims = self._claims(text)
        except Unauthenticated:
            return ""
        is_ours = claims.issuer == self._issuer and claims.audience == AUDIENCE
        return claims.webhook if is_ours and (claims.job_id, claims.operation) == task else ""

    def _claims(self, text: str) -> JobClaims:
        try:
            if len(text) > MAX_TOKEN_CHARS:
                raise jwt.DecodeError
            header = self._jws.get_unverified_header(text)
            key = self._keys.accepted.get(str(header.get("kid")))
            if key is None or header.get("typ") != TYPE:
                raise Unauthenticated("the token in _caller is no job's, or signed by no key that is in use here")
            payload = self._jws.decode(text, key.public, algorithms=[key.algorithm])
            return msgspec.json.decode(payload, type=JobClaims)
        except jwt.InvalidSignatureError:
            raise Unauthenticated("the signature of the token in _caller is wrong") from None
        except (jwt.PyJWTError, msgspec.MsgspecError, UnicodeError, RecursionError):
            raise Unauthenticated("the token in _caller is not well formed") from None
