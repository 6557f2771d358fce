"""Sessions: one row for each login, and what its tokens are worth."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable

from phalanx.contract.users import SessionRecord, Tokens
from phalanx.errors import SessionEnded, Unauthenticated, Unavailable
from phalanx.ports import Broadcast, Clock, SessionStore
from phalanx.services.callers.tokens import RefreshToken, TokenSigner, read_refresh_token, refresh_token

SECRET_BYTES = 32
GRACE_S = 10.0
"""For so long a client that did not hear the answer, or two tabs at once, may send the last refresh token again."""
MAX_LIFE = 6
"""A session that is refreshed in time lives for so many times the refresh token's life, and then ends all the same."""
MAX_PER_USER = 50
MAX_USER_AGENT_CHARS = 300
KEPT_S = 86_400.0
TRIES = 3
ENDED = "the session is over; log in again"
USED_TWICE = "this refresh token was used before; as it may have been stolen the session was ended; log in again"


class Sessions:
    """Opens sessions, refreshes their tokens, ends them, and tells all workers of the end.

    Each refresh moves the session's counter on and returns tokens for where it stands. A refresh token that is one
    behind is answered for ten seconds with the tokens that its successor's owner has; after that, or further behind, it
    is a copy, and the session ends: thief and owner cannot be told apart (RFC 9700 §4.14.2).
    """

    def __init__(
        self,
        store: SessionStore,
        broadcast: Broadcast,
        signer: TokenSigner,
        *,
        clock: Clock,
        new_id: Callable[[], str],
        access_ttl_s: float,
        refresh_ttl_s: float,
    ) -> None:
        """`access_ttl_s` and `refresh_ttl_s` are how long a token lives that nobody refreshes, in seconds."""
        self._store = store
        self._broadcast = broadcast
        self._signer = signer
        self._clock = clock
        self._new_id = new_id
        self._access_ttl_s = access_ttl_s
        self._refresh_ttl_s = refresh_ttl_s

    async def open(self, user_id: str, organisation: str, *, address: str, user_agent: str) -> SessionRecord:
        """Open a session. Of a user with fifty the oldest ends."""
        now = self._clock.now()
        session = SessionRecord(
            id=self._new_id(), user_id=user_id, organisation=organisation, counter=0,
            secret=secrets.token_bytes(SECRET_BYTES), created_at=now, refreshed_at=now,
            expires_at=now + MAX_LIFE * self._refresh_ttl_s, address=address,
            user_agent=user_agent[:MAX_USER_AGENT_CHARS],
        )  # fmt: skip
        await self._store.add(session)
        for surplus in (await self._store.list(user_id))[MAX_PER_USER:]:
            await self.end(surplus.id)
        return session

    def tokens(self, session: SessionRecord) -> Tokens:
        """Return the tokens for where a session stands."""
        now = self._clock.now()
        expires_at = min(now + self._access_ttl_s, self.expires_at(session))
        return Tokens(
            access_token=str(self._signer.sign(session, expires_at=expires_at)),
            refresh_token=str(refresh_token(session)),
            token_type="Bearer",  # noqa: S106
            expires_in=int(expires_at - now),
        )

    def expires_at(self, session: SessionRecord) -> float:
        """Return when a session ends unless it is refreshed, in epoch seconds."""
        return min(session.expires_at, session.refreshed_at + self._refresh_ttl_s)

    async def refresh(self, text: str) -> Tokens:
        """Trade a refresh token for new tokens.

        Raises `Unauthenticated` for one that was not issued here, `SessionEnded` for one whose session is over, and for
        a copy, whose session is over by then.
        """
        token = read_refresh_token(text)
        for _ in range(TRIES):
            session = await self._session_of(token)
            now = self._clock.now()
            behind = session.counter - token.counter
            if behind == 0:
                advanced = await self._store.advance(session.id, counter=session.counter, at=now)
                if advanced is not None:
                    return self.tokens(advanced)
            # A clock that was set back since makes the time of the last refresh lie ahead.
            elif behind == 1 and abs(now - session.refreshed_at) < GRACE_S:
                return self.tokens(session)
            elif behind < 0:
                raise Unauthenticated("the refresh token was not issued here")
            else:
                await self.end(session.id)
                raise SessionEnded(USED_TWICE)
        raise Unavailable("the session is being refreshed by many at once")

    async def list(self, user_id: str) -> list[SessionRecord]:
        """Return the open sessions of a user, newest first."""
        now = self._clock.now()
        return [session for session in await self._store.list(user_id) if self.expires_at(session) > now]

    async def end(self, session_id: str) -> bool:
        """End a session; False if there is none or it had ended."""
        ended = await self._store.end(session_id, at=self._clock.now())
        await self._broadcast.publish([f"session:{session_id}"])
        return ended

    async def end_own(self, user_id: str, session_id: str) -> bool:
        """End a session if it is this user's; False if there is none of theirs, or it had ended."""
        session = await self._store.get(session_id)
        return session is not None and session.user_id == user_id and await self.end(session_id)

    async def end_all(self, user_id: str, *, keep: str | None = None) -> int:
        """End all sessions of a user but `keep`. Returns how many."""
        sessions = await self._store.list(user_id)
        ended = await self._store.end_all(user_id, at=self._clock.now(), keep=keep)
        await self.tell(sessions)
        return ended

    async def tell(self, sessions: Iterable[SessionRecord]) -> None:
        """Tell all workers that what they know of sessions counts no longer. Never raises."""
        await self._broadcast.publish([f"session:{session.id}" for session in sessions])

    async def tidy(self) -> int:
        """Delete the rows of sessions that ended, or could last have been used, a day ago. Returns how many."""
        return await self._store.forget(before=self._clock.now() - KEPT_S)

    async def _session_of(self, token: RefreshToken) -> SessionRecord:
        session = await self._store.get(token.session_id)
        if session is None or not token.is_genuine(session):
            raise Unauthenticated("the refresh token was not issued here, or its session is long over")
        standing = await self._store.standing(session.id)
        if standing is None or standing.ended_at is not None or self.expires_at(session) <= self._clock.now():
            raise SessionEnded(ENDED)
        return session
