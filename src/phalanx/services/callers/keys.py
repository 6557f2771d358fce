"""API keys: their text, and the use cases around them."""

from __future__ import annotations

import hashlib
import secrets
import zlib
from collections.abc import Callable, Iterable

from msgspec.structs import replace

from phalanx.contract.keys import (
    CreateKeyRequest,
    CreateKeyResponse,
    KeyRecord,
    KeyView,
    ListKeysRequest,
    ListKeysResponse,
    RevokeKeyRequest,
    RotateKeyRequest,
    Scope,
    Tier,
)
from phalanx.contract.users import OrganisationRecord
from phalanx.errors import Conflict, Forbidden, InvalidRequest, NotFound
from phalanx.ports import Broadcast, Clock, KeyStore, OrganisationStore
from phalanx.services.ticket import Caller, Ticket

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
    """Create, list, replace and revoke keys. A caller sees and touches the keys of its own organisation; an admin all."""

    def __init__(
        self,
        keys: KeyStore,
        organisations: OrganisationStore,
        broadcast: Broadcast,
        *,
        clock: Clock,
        prefix: str,
        new_id: Callable[[], str],
    ) -> None:
        self._store = keys
        self._organisations = organisations
        self._broadcast = broadcast
        self._clock = clock
        self._prefix = prefix
        self._new_id = new_id

    async def create(self, ticket: Ticket, request: CreateKeyRequest) -> CreateKeyResponse:
        """Make a key and return its text, which is not stored.

        A caller that is no admin makes keys of its own organisation and tier, with scopes that it has itself; raises
        `Forbidden` for more. Raises `NotFound` when an admin names an organisation that is not there, `InvalidRequest`
        when nobody is named and the caller has no email.
        """
        caller = ticket.caller
        email = request.email or caller.email
        if not email:
            raise InvalidRequest("email is missing: say whose key it is to be", param="email")
        if _is_admin(caller):
            owner = await self._owner(request, caller)
            organisation, tier = owner.id, request.tier or owner.tier
        else:
            organisation, tier = caller.organisation, _own_tier(caller, request)
            _require_scopes(caller, request.scopes)
        now, days = self._clock.now(), request.expires_in_days
        record, text = self._new(
            KeyRecord(
                id="", digest="", hint="", email=email, organisation=organisation, name=request.name, tier=tier,
                scopes=tuple(dict.fromkeys(request.scopes)), created_at=now,
                expires_at=now + days * 86400 if days else None,
            )
        )  # fmt: skip
        await self._store.add(record)
        return CreateKeyResponse(key=text, record=_view(record))

    async def list(self, ticket: Ticket, request: ListKeysRequest) -> ListKeysResponse:
        """Return a page of keys, oldest first."""
        organisation = request.organisation if _is_admin(ticket.caller) else ticket.caller.organisation
        limit = request.limit
        found = await self._store.list(organisation=organisation, after=request.after, limit=limit + 1)
        page = found[:limit]
        return ListKeysResponse(keys=[*map(_view, page)], next=page[-1].id if len(found) > limit else "")

    async def revoke(self, ticket: Ticket, request: RevokeKeyRequest) -> KeyView:
        """End a key; a second time changes nothing. Raises `NotFound`."""
        await self._find(ticket.caller, request.id)
        record = await self._store.revoke(request.id, at=self._clock.now())
        if record is None:
            raise _absent(request.id)
        await self._broadcast.publish([f"key:{record.digest}"])
        return _view(record)

    async def rotate(self, ticket: Ticket, request: RotateKeyRequest) -> CreateKeyResponse:
        """Put a new key in the place of one, which goes on for `grace_seconds`; the new one lives as long as the old was to.

        Raises `NotFound`, `Conflict` when the key has ended, `Forbidden` when it may do more than the caller.
        """
        caller, now = ticket.caller, self._clock.now()
        old = await self._find(caller, request.id)
        if not _is_admin(caller):
            _require_scopes(caller, old.scopes)
        if old.revoked_at is not None or (old.expires_at is not None and old.expires_at <= now):
            raise Conflict(f"the key {old.id!r} has ended; create a new one")
        lives_s = None if old.expires_at is None else old.expires_at - old.created_at
        record, text = self._new(
            replace(old, created_at=now, last_used_at=None, expires_at=None if lives_s is None else now + lives_s)
        )
        if await self._store.rotate(old.id, record, expires_at=now + request.grace_seconds) is None:
            raise Conflict(f"the key {old.id!r} was revoked meanwhile")
        await self._broadcast.publish([f"key:{old.digest}"])
        return CreateKeyResponse(key=text, record=_view(record))

    def _new(self, draft: KeyRecord) -> tuple[KeyRecord, str]:
        """Return a draft as the record of a new key, and the key's text."""
        text = new_key_text(self._prefix)
        hint = text[: len(self._prefix) + HINT_CHARS]
        return replace(draft, id=self._new_id(), digest=key_digest(text), hint=hint), text

    async def _find(self, caller: Caller, key_id: str) -> KeyRecord:
        record = await self._store.get(key_id)
        if record is None or not (_is_admin(caller) or record.organisation == caller.organisation):
            raise _absent(key_id)
        return record

    async def _owner(self, request: CreateKeyRequest, caller: Caller) -> OrganisationRecord:
        """Return the organisation that an admin makes a key for; one that is named by an email is made at need."""
        name = (request.email or "").strip().lower() or caller.organisation
        found = await self._organisations.get(request.organisation or name)
        if found is not None:
            return found
        if request.organisation is not None:
            raise NotFound(f"there is no organisation {request.organisation!r}")
        made = OrganisationRecord(id=name, name=name, tier=request.tier or "free", created_at=self._clock.now())
        try:
            await self._organisations.add(made)
        except Conflict:
            # Somebody else was quicker.
            return await self._organisations.get(name) or made
        return made


def _is_admin(caller: Caller) -> bool:
    return "admin" in caller.scopes


def _require_scopes(caller: Caller, scopes: Iterable[Scope]) -> None:
    excess = set(scopes) - caller.scopes
    if excess:
        raise Forbidden(f"the new key may not have more than your own scopes; it asks for {sorted(excess)}")


def _own_tier(caller: Caller, request: CreateKeyRequest) -> Tier:
    """Return the tier of a key that a caller makes for its own organisation."""
    if caller.tier == "anonymous" or caller.tier == "operator":
        raise Forbidden("a key belongs to an organisation, and you call for none")
    if request.tier not in (None, caller.tier):
        raise Forbidden(f"only an admin may choose a tier other than your own, {caller.tier!r}")
    return caller.tier


def _absent(key_id: str) -> NotFound:
    return NotFound(f"you have no key {key_id!r}")


def _view(record: KeyRecord) -> KeyView:
    return KeyView(**{name: getattr(record, name) for name in KeyView.__struct_fields__})
