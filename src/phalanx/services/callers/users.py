"""Users: signing up, logging in and out, and what administrators do with them."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import UNSET, UnsetType

from phalanx.contract.keys import ALL_SCOPES, DEFAULT_SCOPES, Scope, Tier
from phalanx.contract.users import (
    ChangePasswordRequest,
    CreateUserRequest,
    Ended,
    EndSessionRequest,
    EndSessionsRequest,
    ListSessionsRequest,
    ListSessionsResponse,
    ListUsersRequest,
    ListUsersResponse,
    LoginRequest,
    LogoutRequest,
    Me,
    MeRequest,
    OrganisationRecord,
    RefreshRequest,
    SessionRecord,
    SessionView,
    SignupRequest,
    Standing,
    Tokens,
    UpdateUserRequest,
    User,
    UserRecord,
    UserView,
)
from phalanx.errors import Conflict, Forbidden, InvalidRequest, NotFound, Unauthenticated
from phalanx.ports import Clock, OrganisationStore, UserStore
from phalanx.services.callers.passwords import Passwords, require_strong
from phalanx.services.callers.sessions import Sessions
from phalanx.services.callers.throttle import Throttle
from phalanx.services.ticket import Caller, Ticket

ADMIN_SCOPES = frozenset(ALL_SCOPES) - {"admin"}
MEMBER_SCOPES = frozenset(DEFAULT_SCOPES)
STAFF_SCOPES: frozenset[Scope] = frozenset({"admin"})
WRONG = "the email or the password is wrong"


def scopes_of(standing: Standing) -> frozenset[Scope]:
    """Return what a session may do: by the role in its organisation, and more for who administers the installation."""
    scopes = ADMIN_SCOPES if standing.role == "admin" else MEMBER_SCOPES
    return scopes | STAFF_SCOPES if standing.staff else scopes


def normal_email(email: str) -> str:
    """Return an email address as it is stored and compared."""
    return email.strip().lower()


class UserService:
    """Users and their sessions.

    Unknown email, wrong password and disabled user get one answer after the same time, and whatever is tried counts
    against the account and the address before anything is hashed.
    """

    def __init__(
        self,
        users: UserStore,
        organisations: OrganisationStore,
        sessions: Sessions,
        passwords: Passwords,
        throttle: Throttle,
        *,
        clock: Clock,
        new_id: Callable[[], str],
        is_signup_open: bool,
    ) -> None:
        self._users = users
        self._organisations = organisations
        self._sessions = sessions
        self._passwords = passwords
        self._throttle = throttle
        self._clock = clock
        self._new_id = new_id
        self._is_signup_open = is_signup_open

    async def signup(self, ticket: Ticket, request: SignupRequest) -> User:
        """Make a user, who is admin of an organisation of their own, of tier free.

        Raises `Forbidden` where only administrators make users, `Conflict` when the email is taken, `InvalidRequest`
        for a weak password.
        """
        if not self._is_signup_open:
            raise Forbidden("signing up is closed here; ask an administrator for an account")
        await self._throttle.address(ticket.address)
        user = await self._make(request.email, request.password, staff=False, tier="free")
        return User(id=user.id, email=user.email)

    async def login(self, ticket: Ticket, request: LoginRequest) -> Tokens:
        """Open a session. Raises `Unauthenticated`, `Forbidden` for an organisation that is not theirs, `RateLimited`."""
        email = normal_email(request.email)
        await self._throttle.login(address=ticket.address, email=email)
        user = await self._users.find(email)
        is_right = await self._passwords.verify(user.password_hash if user else None, request.password)
        if user is None or not is_right or user.disabled_at is not None:
            raise Unauthenticated(WRONG)
        organisation = await self._choose(user.id, request.organisation)
        session = await self._sessions.open(user.id, organisation, address=ticket.address, user_agent=ticket.user_agent)
        if not await self._still_holds(user, request.password):
            await self._sessions.end(session.id)
            raise Unauthenticated(WRONG)
        if self._passwords.is_outdated(user.password_hash):
            renewed = await self._passwords.hash(request.password)
            await self._users.rehash(user.id, user.password_hash, renewed)
        return self._sessions.tokens(session)

    async def refresh(self, ticket: Ticket, request: RefreshRequest) -> Tokens:
        """Trade a refresh token for new tokens; see `Sessions.refresh`."""
        await self._throttle.refresh(ticket.address)
        return await self._sessions.refresh(request.refresh_token)

    async def logout(self, ticket: Ticket, request: LogoutRequest) -> Ended:
        """End the caller's session, or all sessions of its user."""
        caller = _user(ticket)
        if request.everywhere:
            return Ended(ended=await self._sessions.end_all(caller.user_id))
        return Ended(ended=int(await self._sessions.end(caller.session_id)))

    async def change_password(self, ticket: Ticket, request: ChangePasswordRequest) -> Ended:
        """Set a new password and end all other sessions.

        Raises `InvalidRequest` when the current one is wrong or the new one weak, `RateLimited`.
        """
        caller = _user(ticket)
        await self._throttle.account(caller.email)
        user = await self._users.get(caller.user_id)
        if user is None or not await self._passwords.verify(user.password_hash, request.current_password):
            raise InvalidRequest("the current password is wrong", param="current_password")
        require_strong(request.new_password, email=user.email, param="new_password")
        await self._users.update(user.id, password_hash=await self._passwords.hash(request.new_password))
        return Ended(ended=await self._sessions.end_all(user.id, keep=caller.session_id))

    async def me(self, ticket: Ticket, request: MeRequest) -> Me:
        """Say who the caller is."""
        caller = ticket.caller
        return Me(
            user_id=caller.user_id, key_id=caller.key_id, email=caller.email, organisation=caller.organisation,
            role=caller.role, tier=caller.tier, scopes=sorted(caller.scopes),
        )  # fmt: skip

    async def list_sessions(self, ticket: Ticket, request: ListSessionsRequest) -> ListSessionsResponse:
        """Return the caller's open sessions, newest first."""
        caller = _user(ticket)
        sessions = await self._sessions.list(caller.user_id)
        return ListSessionsResponse(sessions=[self._view(session, caller) for session in sessions])

    async def end_session(self, ticket: Ticket, request: EndSessionRequest) -> Ended:
        """End one session of the caller. Raises `NotFound`."""
        if not await self._sessions.end_own(_user(ticket).user_id, request.id):
            raise NotFound(f"you have no open session {request.id!r}")
        return Ended(ended=1)

    async def end_sessions(self, ticket: Ticket, request: EndSessionsRequest) -> Ended:
        """End all sessions of the caller but the current one."""
        caller = _user(ticket)
        return Ended(ended=await self._sessions.end_all(caller.user_id, keep=caller.session_id))

    async def list(self, ticket: Ticket, request: ListUsersRequest) -> ListUsersResponse:
        """Return a page of users, oldest first, or the one with an email."""
        if request.email is not None:
            user = await self._users.find(normal_email(request.email))
            return ListUsersResponse(users=[_user_view(user)] if user else [])
        limit = request.limit
        found = await self._users.list(after=request.after, limit=limit + 1)
        page = found[:limit]
        return ListUsersResponse(users=[*map(_user_view, page)], next=page[-1].id if len(found) > limit else "")

    async def create(self, ticket: Ticket, request: CreateUserRequest) -> UserView:
        """Make a user as `signup` does, where that is closed, too; of any tier."""
        user = await self._make(request.email, request.password, staff=request.staff, tier=request.tier)
        return _user_view(user)

    async def update(self, ticket: Ticket, request: UpdateUserRequest) -> UserView:
        """Disable or enable a user, set their password, make them staff or not; all their sessions end.

        Raises `NotFound`, `InvalidRequest` for a weak password.
        """
        user = await self._users.get(request.id)
        if user is None:
            raise NotFound(f"there is no user {request.id!r}")
        password_hash = None
        if request.password is not None:
            require_strong(request.password, email=user.email)
            password_hash = await self._passwords.hash(request.password)
        disabled_at: float | UnsetType | None = UNSET
        if request.disabled is not None:
            disabled_at = self._clock.now() if request.disabled else None
        user = await self._users.update(
            user.id, password_hash=password_hash, disabled_at=disabled_at, staff=request.staff
        )
        await self._sessions.end_all(request.id)
        if user is None:
            raise NotFound(f"there is no user {request.id!r}")
        return _user_view(user)

    async def _make(self, email: str, password: str, *, staff: bool, tier: Tier) -> UserRecord:
        email = normal_email(email)
        require_strong(password, email=email)
        if await self._users.find(email) is not None:
            raise Conflict(f"there is a user {email!r} already")
        now = self._clock.now()
        user = UserRecord(
            id=self._new_id(), email=email, password_hash=await self._passwords.hash(password), staff=staff,
            created_at=now,
        )  # fmt: skip
        own = OrganisationRecord(id=self._new_id(), name=email, tier=tier, created_at=now)
        await self._users.add(user, own, "admin")
        return user

    async def _choose(self, user_id: str, wanted: str | None) -> str:
        """Return the organisation that a session is for."""
        theirs = [organisation.id for organisation in await self._organisations.list_of(user_id)]
        if wanted is not None and wanted not in theirs:
            raise Forbidden(f"you are no member of the organisation {wanted!r}")
        if not theirs:
            raise Forbidden("you are a member of no organisation; ask the admin of one to add you")
        return wanted or theirs[0]

    async def _still_holds(self, user: UserRecord, password: str) -> bool:
        """Whether the password is right now that the session is there.

        Who changes a password or disables a user does so first and ends all sessions then. A session that was opened
        meanwhile is either among these, or was opened so late that the change is seen here.
        """
        current = await self._users.get(user.id)
        if current is None or current.disabled_at is not None:
            return False
        if current.password_hash == user.password_hash:
            return True
        return await self._passwords.verify(current.password_hash, password)

    def _view(self, session: SessionRecord, caller: Caller) -> SessionView:
        return SessionView(
            id=session.id, organisation=session.organisation, created_at=session.created_at,
            refreshed_at=session.refreshed_at, expires_at=self._sessions.expires_at(session), address=session.address,
            user_agent=session.user_agent, current=session.id == caller.session_id,
        )  # fmt: skip


def _user(ticket: Ticket) -> Caller:
    """Return the caller, who is a user."""
    if not ticket.caller.session_id:
        raise Forbidden("this is for users: send the access token of a session, not an API key")
    return ticket.caller


def _user_view(user: UserRecord) -> UserView:
    return UserView(**{name: getattr(user, name) for name in UserView.__struct_fields__})
