"""The audit log: who did what to whom, and from where."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct, field

from phalanx.contract.keys import Id


class AuditEntry(Struct, frozen=True, kw_only=True):
    """One administrative act. `id` is a UUIDv7, `at` epoch seconds, `actor` a user's or key's id or `operator`.

    `action` is the operation's name, `subject` what it was done to, `status` `ok` or the error table's code.
    """

    id: str
    at: float
    actor: str
    email: str
    organisation: str
    action: str
    subject: str
    address: str
    request_id: str
    status: str


class ListAuditRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask for entries, newest first; `before` is the id of the last one seen, to go on from."""

    organisation: Id | None = None
    action: Id | None = None
    before: Id | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class ListAuditResponse(Struct, frozen=True, kw_only=True):
    """Entries, newest first; `next` continues the list, and is empty at its end."""

    entries: list[AuditEntry] = field(default_factory=list)
    next: str = ""
