"""API keys: what the store keeps and what the key operations say."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from phalanx.contract.confidential import Confidential

Tier = Literal["free", "pro", "scale"]
Scope = Literal["text", "faces", "images", "vectors", "equations", "chat", "jobs", "usage", "keys", "admin"]

ALL_SCOPES: tuple[Scope, ...] = (
    "text", "faces", "images", "vectors", "equations", "chat", "jobs", "usage", "keys", "admin",
)  # fmt: skip
DEFAULT_SCOPES: tuple[Scope, ...] = ("text", "faces", "images", "vectors", "equations", "chat", "jobs", "usage")

PRINTABLE = r"^[^\x00-\x1f\x7f]+$"
Email = Annotated[str, Meta(min_length=3, max_length=254, pattern=r"^[^@\s\x00-\x1f\x7f]+@[^@\s\x00-\x1f\x7f]+$")]
Name = Annotated[str, Meta(min_length=1, max_length=100, pattern=PRINTABLE)]
Id = Annotated[str, Meta(min_length=1, max_length=254, pattern=PRINTABLE)]
"""A UUID of ours, or, of an organisation, the email that it is named by."""
PageSize = Annotated[int, Meta(ge=1, le=1000)]
"""How much of a list is asked for at once."""


class KeyRecord(Struct, frozen=True, kw_only=True):
    """A stored key. Immutable facts only; times are epoch seconds; `digest` is the hex SHA-256 of the key's text."""

    id: str
    digest: str
    hint: str
    email: str
    organisation: str
    name: str
    tier: Tier
    scopes: tuple[Scope, ...]
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None
    last_used_at: float | None = None


class CreateKeyRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask for a new key, for the person with the address `email`, by default the caller.

    An administrator of the installation may name the key's `organisation`. Without it the key belongs to the organisation that
    has `email` as its name, which is created if need be, or, without `email` too, to the administrator's own. The key of any
    other caller belongs to the caller's own organisation. Without `tier` it has the organisation's, or the caller's own.
    """

    email: Email | None = None
    name: Name = "default"
    tier: Tier | None = None
    scopes: tuple[Scope, ...] = DEFAULT_SCOPES
    expires_in_days: Annotated[int, Meta(ge=1, le=3650)] | None = None
    organisation: Id | None = None


class KeyView(Struct, frozen=True, kw_only=True):
    """A key as it may be shown: never its text, which is told once."""

    id: str
    hint: str
    email: str
    organisation: str
    name: str
    tier: Tier
    scopes: tuple[Scope, ...]
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None
    last_used_at: float | None = None


class CreateKeyResponse(Confidential, frozen=True, kw_only=True):
    """The new key; `key` is its text, shown this once."""

    key: str
    record: KeyView


class ListKeysRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask for the keys of the caller's organisation, or of all for an administrator; `after` is the last one's id seen."""

    organisation: Id | None = None
    after: Id | None = None
    limit: PageSize = 100


class ListKeysResponse(Struct, frozen=True, kw_only=True):
    """Keys, oldest first; `next` continues the list as `after`, and is empty at its end."""

    keys: list[KeyView] = field(default_factory=list)
    next: str = ""


class RevokeKeyRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Name the key to revoke."""

    id: Id


class RotateKeyRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Name the key to replace. The old one is still accepted for `grace_seconds`."""

    id: Id
    grace_seconds: Annotated[int, Meta(ge=0, le=30 * 86400)] = 0
