"""Sessions in memory."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from phalanx.contract.users import SessionRecord, Standing
from phalanx.stores.memory.directory import MemoryDirectory


class MemorySessionStore:
    """A `SessionStore` over a directory."""

    def __init__(self, directory: MemoryDirectory) -> None:
        self._directory = directory

    async def add(self, session: SessionRecord) -> None:
        """Store a new session."""
        self._directory.sessions[session.id] = session

    async def get(self, session_id: str) -> SessionRecord | None:
        """Return a session, ended ones too, or None."""
        return self._directory.sessions.get(session_id)

    async def standing(self, session_id: str) -> Standing | None:
        """Return what a session is worth now, or None if there is none; see the port."""
        directory = self._directory
        session = directory.sessions.get(session_id)
        if session is None:
            return None
        user = directory.users[session.user_id]
        member = directory.members.get((session.organisation, session.user_id))
        organisation = directory.organisations.get(session.organisation)
        ends = [session.ended_at, user.disabled_at, None if member and organisation else session.created_at]
        return Standing(
            session_id=session.id, user_id=user.id, email=user.email, staff=user.staff,
            organisation=session.organisation, role=member.role if member else "member",
            tier=organisation.tier if organisation else "free", expires_at=session.expires_at,
            ended_at=next((end for end in ends if end is not None), None),
        )  # fmt: skip

    async def advance(self, session_id: str, *, counter: int, at: float) -> SessionRecord | None:
        """Move the counter on from `counter` by one and return the session; None when it stands elsewhere or ended."""
        session = self._directory.sessions.get(session_id)
        if session is None or session.counter != counter or session.ended_at is not None:
            return None
        session = self._directory.sessions[session_id] = replace(session, counter=counter + 1, refreshed_at=at)
        return session

    async def list(self, user_id: str) -> list[SessionRecord]:
        """Return the sessions of a user that have not ended, newest first. Expired ones may be among them."""
        found = self._directory.open_sessions(user_id=user_id)
        return sorted(found, key=lambda session: (session.created_at, session.id), reverse=True)

    async def end(self, session_id: str, *, at: float) -> bool:
        """End a session; False if there is none or it had ended."""
        session = self._directory.sessions.get(session_id)
        if session is None or session.ended_at is not None:
            return False
        self._end([session], at)
        return True

    async def end_all(self, user_id: str, *, at: float, keep: str | None = None) -> int:
        """End all sessions of a user but `keep`. Returns how many."""
        found = [session for session in self._directory.open_sessions(user_id=user_id) if session.id != keep]
        self._end(found, at)
        return len(found)

    async def forget(self, *, before: float) -> int:
        """Delete sessions that expired or ended before an instant. Returns how many."""
        sessions = self._directory.sessions
        gone = [s.id for s in sessions.values() if min(s.expires_at, s.ended_at or s.expires_at) < before]
        for session_id in gone:
            del sessions[session_id]
        return len(gone)

    def _end(self, sessions: Sequence[SessionRecord], at: float) -> None:
        for session in sessions:
            self._directory.sessions[session.id] = replace(session, ended_at=at)
        self._directory.tell_sessions(sessions)
