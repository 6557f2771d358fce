"""API keys: their text, and the use cases around them."""

from __future__ import annotations

import hashlib
import secrets
import zlib
from collections.abc import Callable

from phalanx.contract.keys import (
    CreateKeyRequest,
    CreateKeyResponse,
    KeyRecord,
    KeyView,
    ListKeysRequest,
    ListKeysResponse,
    RevokeKeyRequest,
)
from phalanx.errors import Forbidden, NotFound
from phalanx.ports import Clock, KeyStore
from phalanx.services.ticket import Ticket

BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
RANDOM_CHARS = 43
CHECKSUM_CHARS = 6
HINT_CHARS = 6


def new_key_text(prefix: str) -> str:
    """Return a new key: prefix, 43 base62 characters (256 bits), 6 of checksum."""
    body = prefix + "".join(secrets.choice(BASE62) for _ in range(RANDOM_CHARS))
    return body + _checksum(body)


def is_well_formed(text: str, prefix: str) -> bool:
    """Whether a text has the form and the checksum of a key, so that garbage is refused before any look-up.

    The form follows GitHub's tokens of 2021: the last six characters are the CRC32 of what precedes, in base62.
    """
    if len(text) != len(prefix) + RANDOM_CHARS + CHECKSUM_CHARS or not text.startswith(prefix) or not text.isascii():
        return False
    return _checksum(text[:-CHECKSUM_CHARS]) == text[-CHECKSUM_CHARS:]


def key_digest(text: str) -> str:
    """Return the hex SHA-256 under which a key is stored. A slow hash would add nothing to 256 random bits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _checksum(body: str) -> str:
    number = zlib.crc32(body.encode())
    digits = []
    for _ in range(CHECKSUM_CHARS):
        number, digit = divmod(number, 62)
        digits.append(BASE62[digit])
    return "".join(reversed(digits))


class KeyService:
    """Create, list and revoke keys. A caller sees and touches the keys of its own organisation; an admin all."""

    def __init__(self, store: KeyStore, *, clock: Clock, prefix: str, new_id: Callable[[], str]) -> None:
        self._store = store
        self._clock = clock
        self._prefix = prefix
        self._new_id = new_id

    async def create(self, ticket: Ticket, request: CreateKeyRequest) -> CreateKeyResponse:
        """Make a key and return its text, which is not stored.

        A caller that is no admin makes keys of its own organisation and tier, with scopes that it has itself; raises
        `Forbidden` for more.
        """
        caller = ticket.caller
        organisation, tier = _organisation_of(request.email), request.tier
        if "admin" not in caller.scopes:
            excess = set(request.scopes) - caller.scopes
            if excess:
                raise Forbidden(f"the new key may not have more than your own scopes; it asks for {sorted(excess)}")
            if tier != caller.tier:
                raise Forbidden(f"only an admin may choose a tier other than your own, {caller.tier!r}")
            organisation = caller.organisation
        text = new_key_text(self._prefix)
        now = self._clock.now()
        days = request.expires_in_days
        record = KeyRecord(
            id=self._new_id(), digest=key_digest(text), hint=text[: len(self._prefix) + HINT_CHARS], email=request.email,
            organisation=organisation, name=request.name, tier=tier, scopes=tuple(dict.fromkeys(request.scopes)),
            created_at=now, expires_at=now + days * 86400 if days else None,
        )  # fmt: skip
        await self._store.add(record)
        return CreateKeyResponse(key=text, record=_view(record))

    async def list(self, ticket: Ticket, request: ListKeysRequest) -> ListKeysResponse:
        """Return keys, oldest first."""
        organisation = request.organisation
        if "admin" not in ticket.caller.scopes:
            organisation = ticket.caller.organisation
        return ListKeysResponse(keys=[_view(record) for record in await self._store.list(organisation=organisation)])

    async def revoke(self, ticket: Ticket, request: RevokeKeyRequest) -> KeyView:
        """End a key; a second time changes nothing. Raises `NotFound`."""
        caller = ticket.caller
        if "admin" not in caller.scopes:
            own = await self._store.list(organisation=caller.organisation)
            if request.id not in {record.id for record in own}:
                raise NotFound(f"you have no key {request.id!r}")
        record = await self._store.revoke(request.id, at=self._clock.now())
        if record is None:
            raise NotFound(f"there is no key {request.id!r}")
        return _view(record)


def _organisation_of(email: str) -> str:
    """Until organisations have a record of their own, an email address is one."""
    return email.strip().lower()


def _view(record: KeyRecord) -> KeyView:
    return KeyView(**{name: getattr(record, name) for name in KeyView.__struct_fields__})
