"""API keys: what the store keeps and what the key operations say."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

Tier = Literal["free", "pro", "scale"]
Scope = Literal["text", "faces", "images", "vectors", "equations", "chat", "jobs", "usage", "keys", "admin"]

ALL_SCOPES: tuple[Scope, ...] = (
    "text", "faces", "images", "vectors", "equations", "chat", "jobs", "usage", "keys", "admin",
)  # fmt: skip
DEFAULT_SCOPES: tuple[Scope, ...] = ("text", "faces", "images", "vectors", "equations", "chat", "jobs", "usage")


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


class CreateKeyRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask for a new key."""

    email: Annotated[str, Meta(min_length=3, max_length=254, pattern=r"^[^@\s]+@[^@\s]+$")]
    name: Annotated[str, Meta(min_length=1, max_length=100)] = "default"
    tier: Tier = "free"
    scopes: tuple[Scope, ...] = DEFAULT_SCOPES
    expires_in_days: Annotated[int, Meta(ge=1, le=3650)] | None = None


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


class CreateKeyResponse(Struct, frozen=True, kw_only=True):
    """The new key; `key` is its text, shown this once."""

    key: str
    record: KeyView


class ListKeysRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask for the keys of the caller's organisation, or of all for an administrator."""

    organisation: str | None = None


class ListKeysResponse(Struct, frozen=True, kw_only=True):
    """Keys, oldest first."""

    keys: list[KeyView] = field(default_factory=list)


class RevokeKeyRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Name the key to revoke."""

    id: str
