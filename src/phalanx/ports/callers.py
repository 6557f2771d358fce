"""Who may call: keys, users, organisations, sessions, and the news about them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from msgspec import UNSET, UnsetType

from phalanx.contract.audit import AuditEntry
from phalanx.contract.keys import KeyRecord, Tier
from phalanx.contract.users import MemberRecord, OrganisationRecord, Role, SessionRecord, Standing, UserRecord


class KeyStore(Protocol):
    """API keys by the SHA-256 of their text. Down: cached keys serve on for five minutes, all else is `unavailable`.

    Whatever changes what a key may do appends `key:<digest>` to the change feed in the same transaction.
    """

    async def find(self, digest: str) -> KeyRecord | None:
        """Return the key with this hex SHA-256, revoked and expired ones too, or None."""
        ...

    async def get(self, key_id: str) -> KeyRecord | None:
        """Return the key with this id, or None."""
        ...

    async def add(self, record: KeyRecord) -> None:
        """Store a new key. Raises `Conflict` when its id or digest is already there.

        Where its organisation has no record, one is made in the same transaction, with its id as its name and the key's
        tier.
        """
        ...

    async def list(
        self, *, organisation: str | None = None, after: str | None = None, limit: int | None = None
    ) -> list[KeyRecord]:
        """Return keys, or those of one organisation, oldest first: at most `limit`, of those after the id `after`."""
        ...

    async def revoke(self, key_id: str, *, at: float) -> KeyRecord | None:
        """Mark a key revoked at `at` (epoch seconds); a second time keeps the first time. None if there is none."""
        ...

    async def rotate(self, key_id: str, replacement: KeyRecord, *, expires_at: float) -> KeyRecord | None:
        """Add `replacement` and let the old key end at `expires_at`, or sooner if it does anyway, in one transaction.

        Returns the old key. None, and nothing is added, if there is none or it was revoked.
        """
        ...

    async def touch(self, used: Mapping[str, float]) -> None:
        """Note when keys (by id) were last used, in epoch seconds; an earlier time than the known one changes nothing."""
        ...

    async def ping(self) -> None:
        """Return when the store answers; raise `Unavailable` when it does not."""
        ...

    async def close(self) -> None:
        """Give back what the adapter holds."""
        ...


class UserStore(Protocol):
    """Users by id and by email. Down: `unavailable`."""

    async def add(self, user: UserRecord, organisation: OrganisationRecord, role: Role) -> None:
        """Store a user, the email in lower case, together with an organisation of their own.

        Raises `Conflict` when the email, or an id, is taken.
        """
        ...

    async def get(self, user_id: str) -> UserRecord | None:
        """Return a user, disabled ones too, or None."""
        ...

    async def find(self, email: str) -> UserRecord | None:
        """Return the user with this email, which is in lower case, or None."""
        ...

    async def list(self, *, after: str | None = None, limit: int | None = None) -> list[UserRecord]:
        """Return users, oldest first: at most `limit`, of those after the id `after`."""
        ...

    async def update(
        self, user_id: str, *, password_hash: str | None = None, disabled_at: float | UnsetType | None = UNSET,
        staff: bool | None = None,
    ) -> UserRecord | None:  # fmt: skip
        """Change what is given; None for `disabled_at` enables again. Returns the user, or None if there is none.

        Appends `session:<id>` of every open session of the user to the change feed.
        """
        ...

    async def rehash(self, user_id: str, former: str, password_hash: str) -> None:
        """Store another hash of the same password, unless the stored one is not `former` any more."""
        ...


class OrganisationStore(Protocol):
    """Organisations and their members. Down: `unavailable`."""

    async def add(self, organisation: OrganisationRecord, *, admin: str | None = None) -> None:
        """Store an organisation, with a user as its admin if given.

        Raises `Conflict` when its id is taken, `NotFound` when there is no such user.
        """
        ...

    async def get(self, organisation: str) -> OrganisationRecord | None:
        """Return an organisation or None."""
        ...

    async def update(
        self, organisation: str, *, name: str | None = None, tier: Tier | None = None
    ) -> OrganisationRecord | None:
        """Change what is given; a tier also that of all its keys. Returns the organisation, or None if there is none.

        Appends its keys and open sessions to the change feed when the tier changes.
        """
        ...

    async def members(self, organisation: str) -> Sequence[MemberRecord]:
        """Return the members in the order of joining; none for an organisation that is not there."""
        ...

    async def list(self, *, after: str | None = None, limit: int | None = None) -> list[OrganisationRecord]:
        """Return organisations, oldest first: at most `limit`, of those after the id `after`."""
        ...

    async def list_of(self, user_id: str) -> Sequence[OrganisationRecord]:
        """Return the organisations of a user in the order of joining."""
        ...

    async def put_member(self, organisation: str, user_id: str, role: Role, *, at: float) -> None:
        """Add a member, or change a member's role. Appends their open sessions there to the change feed.

        Raises `NotFound` when there is no such organisation or user, `Conflict` when no admin would be left.
        """
        ...

    async def remove_member(self, organisation: str, user_id: str, *, at: float) -> bool:
        """Take a member out and end their sessions there, which are appended to the change feed.

        False if there is no such member. Raises `Conflict` when no admin would be left.
        """
        ...


class SessionStore(Protocol):
    """Sessions, one row each. Down: `unavailable`, but what an access token says serves on like a cached key.

    Whatever ends a session or changes its standing appends `session:<id>` to the change feed in the same transaction.
    """

    async def add(self, session: SessionRecord) -> None:
        """Store a new session."""
        ...

    async def get(self, session_id: str) -> SessionRecord | None:
        """Return a session, ended ones too, or None."""
        ...

    async def standing(self, session_id: str) -> Standing | None:
        """Return what a session is worth now, or None if there is none.

        The session of a disabled user, or of one no longer in its organisation, has an `ended_at`.
        """
        ...

    async def advance(self, session_id: str, *, counter: int, at: float) -> SessionRecord | None:
        """Move the counter on from `counter` by one and return the session; None when it stands elsewhere or ended."""
        ...

    async def list(self, user_id: str) -> list[SessionRecord]:
        """Return the sessions of a user that have not ended, newest first. Expired ones may be among them."""
        ...

    async def end(self, session_id: str, *, at: float) -> bool:
        """End a session; False if there is none or it had ended."""
        ...

    async def end_all(self, user_id: str, *, at: float, keep: str | None = None) -> int:
        """End all sessions of a user but `keep`. Returns how many."""
        ...

    async def forget(self, *, before: float) -> int:
        """Delete sessions that expired or ended before an instant. Returns how many."""
        ...


class Changes(NamedTuple):
    """What the feed says since a version: the newest version, and the subjects that changed, oldest first."""

    version: int
    subjects: list[str]


class ChangeFeed(Protocol):
    """What changed about keys (`key:<digest>`) and sessions (`session:<id>`), in the order of commits.

    Down: `unavailable`; who follows it takes up where it was.
    """

    async def version(self) -> int:
        """Return the newest version; 0 when nothing ever changed."""
        ...

    async def since(self, version: int, *, limit: int = 10_000) -> Changes | None:
        """Return what changed after a version; None when that is too much or too old to be told: forget everything."""
        ...


class Broadcast(Protocol):
    """Subjects of changes, told to all workers at once. Down: messages are lost; the change feed brings them later."""

    async def publish(self, subjects: Sequence[str]) -> None:
        """Tell every worker, this one included, that subjects changed. Never raises."""
        ...

    def messages(self) -> AsyncIterator[Sequence[str] | None]:
        """Yield the subjects of each message, and None each time that messages may have been missed. Never raises."""
        ...


class AuditLog(Protocol):
    """Administrative acts. Down: `unavailable`."""

    async def append(self, entry: AuditEntry) -> None:
        """Add an entry. Raises `Conflict` when its id is there already: an entry is never changed."""
        ...

    async def list(
        self, *, organisation: str | None, action: str | None, before: str | None, limit: int
    ) -> list[AuditEntry]:
        """Return entries, newest first, older than the id `before`."""
        ...
