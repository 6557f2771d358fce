"""Callers in memory: what the adapters of keys, users, organisations, sessions and of the change feed share."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from phalanx.contract.keys import KeyRecord
from phalanx.contract.users import MemberRecord, OrganisationRecord, SessionRecord, UserRecord

MAX_CHANGES = 100_000


class MemoryDirectory:
    """Records by id, and the news about them. They are immutable, so they are handed out as they are.

    Nothing in it waits, so what an adapter does between two awaits is one transaction.
    """

    def __init__(self) -> None:
        self.keys: dict[str, KeyRecord] = {}
        self.ids_by_digest: dict[str, str] = {}
        self.users: dict[str, UserRecord] = {}
        self.ids_by_email: dict[str, str] = {}
        self.organisations: dict[str, OrganisationRecord] = {}
        self.members: dict[tuple[str, str], MemberRecord] = {}
        self.sessions: dict[str, SessionRecord] = {}
        self.version = 0
        self.changes: deque[str] = deque(maxlen=MAX_CHANGES)

    def tell(self, subjects: Iterable[str]) -> None:
        """Append subjects to the change feed; the oldest make room."""
        for subject in subjects:
            self.changes.append(subject)
            self.version += 1

    def tell_keys(self, keys: Iterable[KeyRecord]) -> None:
        """Append keys to the change feed."""
        self.tell(f"key:{key.digest}" for key in keys)

    def tell_sessions(self, sessions: Iterable[SessionRecord]) -> None:
        """Append sessions to the change feed."""
        self.tell(f"session:{session.id}" for session in sessions)

    def put_key(self, key: KeyRecord) -> None:
        """Store a key, in place of the one with its id if there is one."""
        self.keys[key.id] = key
        self.ids_by_digest[key.digest] = key.id

    def open_sessions(self, *, user_id: str | None = None, organisation: str | None = None) -> list[SessionRecord]:
        """Return the sessions of a user, of an organisation, or of one in the other, that have not ended."""
        return [
            session
            for session in self.sessions.values()
            if session.ended_at is None
            and (user_id is None or session.user_id == user_id)
            and (organisation is None or session.organisation == organisation)
        ]
