"""Organisations, which own keys and are limited and billed, and their members."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from phalanx.contract.users import (
    CreateOrganisationRequest,
    GetOrganisationRequest,
    ListMembersRequest,
    ListMembersResponse,
    ListOrganisationsRequest,
    ListOrganisationsResponse,
    MemberRecord,
    MemberView,
    OrganisationRecord,
    OrganisationView,
    PutMemberRequest,
    RemoveMemberRequest,
    UpdateOrganisationRequest,
)
from phalanx.errors import Conflict, Forbidden, InvalidRequest, NotFound
from phalanx.ports import Clock, OrganisationStore, UserStore
from phalanx.services.callers.sessions import Sessions
from phalanx.services.callers.users import normal_email
from phalanx.services.ticket import Caller, Ticket

MAX_PER_USER = 20
"""A user who could make any number of organisations would have as many free quotas."""


class OrganisationService:
    """Organisations as their members see them: admins change them, the others look.

    An administrator of the installation may do everything to all. A key may look at the organisation that it belongs to,
    but not at its members: it is no person. What a caller may not see is not there.
    """

    def __init__(
        self,
        organisations: OrganisationStore,
        users: UserStore,
        sessions: Sessions,
        *,
        clock: Clock,
        new_id: Callable[[], str],
    ) -> None:
        self._store = organisations
        self._users = users
        self._sessions = sessions
        self._clock = clock
        self._new_id = new_id

    async def list(self, ticket: Ticket, request: ListOrganisationsRequest) -> ListOrganisationsResponse:
        """Return the caller's organisations, or a page of all for an administrator of the installation."""
        caller, following = ticket.caller, ""
        theirs = [*await self._store.list_of(caller.user_id)] if caller.user_id else []
        records = theirs
        if _is_staff(caller):
            found = await self._store.list(after=request.after, limit=request.limit + 1)
            records = found[: request.limit]
            following = records[-1].id if len(found) > request.limit else ""
        elif not caller.user_id:
            own = await self._store.get(caller.organisation)
            records = [own] if own else []
        seats = {one.id: await self._role(one.id, caller) for one in theirs}
        views = [_view(one, seats.get(one.id, "")) for one in records]
        return ListOrganisationsResponse(organisations=views, next=following)

    async def create(self, ticket: Ticket, request: CreateOrganisationRequest) -> OrganisationView:
        """Make an organisation, of which a user who makes it is admin.

        Raises `Forbidden` for a tier that is not free, and for a key; `Conflict` for a user with twenty.
        """
        caller = ticket.caller
        if not _is_staff(caller):
            if not caller.user_id:
                raise Forbidden("organisations are made by users: log in")
            if request.tier != "free":
                raise Forbidden("only an administrator of the installation chooses a tier")
            if len(await self._store.list_of(caller.user_id)) >= MAX_PER_USER:
                raise Conflict(f"a user may be a member of {MAX_PER_USER} organisations, as you are")
        record = OrganisationRecord(
            id=self._new_id(), name=_stripped(request.name), tier=request.tier, created_at=self._clock.now()
        )
        await self._store.add(record, admin=caller.user_id or None)
        return _view(record, "admin" if caller.user_id else "")

    async def get(self, ticket: Ticket, request: GetOrganisationRequest) -> OrganisationView:
        """Return an organisation. Raises `NotFound`."""
        record, role = await self._enter(ticket.caller, request.id)
        return _view(record, role)

    async def update(self, ticket: Ticket, request: UpdateOrganisationRequest) -> OrganisationView:
        """Change an organisation. Raises `NotFound`, `Forbidden`.

        A new tier is heard of by the change feed, within seconds: there is nothing that must end at once.
        """
        caller = ticket.caller
        _, role = await self._enter(caller, request.id)
        _require_admin(caller, role)
        if request.tier is not None and not _is_staff(caller):
            raise Forbidden("only an administrator of the installation chooses a tier")
        name = None if request.name is None else _stripped(request.name)
        record = await self._store.update(request.id, name=name, tier=request.tier)
        if record is None:
            raise _absent(request.id)
        return _view(record, role)

    async def members(self, ticket: Ticket, request: ListMembersRequest) -> ListMembersResponse:
        """Return the members in the order in which they joined. Raises `NotFound`, `Forbidden` for a key."""
        caller = ticket.caller
        await self._enter(caller, request.id)
        if not caller.user_id and not _is_staff(caller):
            raise Forbidden("members are shown to users: log in")
        members = await self._store.members(request.id)
        return ListMembersResponse(members=[_member_view(member) for member in members])

    async def put_member(self, ticket: Ticket, request: PutMemberRequest) -> MemberView:
        """Add a user, or change a member's role; their sessions there have it at once.

        Raises `NotFound` for an organisation or user that is not there, `Forbidden`, `Conflict` when no admin would be
        left, or the user is in twenty organisations.
        """
        caller = ticket.caller
        _, role = await self._enter(caller, request.id)
        _require_admin(caller, role)
        user = await self._users.find(normal_email(request.email))
        if user is None:
            raise NotFound(f"there is no user {request.email!r}; they have to sign up first")
        theirs = {organisation.id for organisation in await self._store.list_of(user.id)}
        if request.id not in theirs and len(theirs) >= MAX_PER_USER:
            raise Conflict(f"a user may be a member of {MAX_PER_USER} organisations, as they are")
        await self._store.put_member(request.id, user.id, request.role, at=self._clock.now())
        await self._tell(user.id, request.id)
        return _member_view(await self._member(request.id, user.id))

    async def remove_member(self, ticket: Ticket, request: RemoveMemberRequest) -> MemberView:
        """Take a member out and end their sessions there at once. Members may leave by themselves.

        Raises `NotFound`, `Forbidden`, `Conflict` when no admin would be left.
        """
        caller = ticket.caller
        _, role = await self._enter(caller, request.id)
        if caller.user_id != request.user_id:
            _require_admin(caller, role)
        member = await self._member(request.id, request.user_id)
        sessions = await self._sessions.list(request.user_id)
        await self._store.remove_member(request.id, request.user_id, at=self._clock.now())
        await self._sessions.tell(session for session in sessions if session.organisation == request.id)
        return _member_view(member)

    async def _enter(self, caller: Caller, organisation: str) -> tuple[OrganisationRecord, str]:
        """Return an organisation that a caller may see, and their role in it. Raises `NotFound`."""
        record = await self._store.get(organisation)
        role = await self._role(organisation, caller)
        is_own_key = not caller.user_id and caller.organisation == organisation
        if record is None or not (role or is_own_key or _is_staff(caller)):
            raise _absent(organisation)
        return record, role

    async def _role(self, organisation: str, caller: Caller) -> str:
        if not caller.user_id:
            return ""
        members = await self._store.members(organisation)
        return next((member.role for member in members if member.user_id == caller.user_id), "")

    async def _member(self, organisation: str, user_id: str) -> MemberRecord:
        for member in await self._store.members(organisation):
            if member.user_id == user_id:
                return member
        raise NotFound(f"the organisation {organisation!r} has no member {user_id!r}")

    async def _tell(self, user_id: str, organisation: str) -> None:
        sessions = await self._sessions.list(user_id)
        await self._sessions.tell(session for session in sessions if session.organisation == organisation)


def _is_staff(caller: Caller) -> bool:
    return "admin" in caller.scopes


def _require_admin(caller: Caller, role: str) -> None:
    if role != "admin" and not _is_staff(caller):
        raise Forbidden("only an admin of the organisation may change it")


def _absent(organisation: str) -> NotFound:
    return NotFound(f"you have no organisation {organisation!r}")


def _stripped(name: str) -> str:
    stripped = name.strip()
    if not stripped:
        raise InvalidRequest("a name has at least one character that can be seen", param="name")
    return stripped


def _view(record: OrganisationRecord, role: str) -> OrganisationView:
    return OrganisationView(**msgspec.structs.asdict(record), role=role)


def _member_view(member: MemberRecord) -> MemberView:
    return MemberView(user_id=member.user_id, email=member.email, role=member.role, joined_at=member.joined_at)
