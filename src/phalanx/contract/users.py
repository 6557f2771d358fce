"""Users, their sessions and the organisations that they belong to."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from phalanx.contract.confidential import Confidential
from phalanx.contract.keys import Email, Id, Name, PageSize, Tier

Role = Literal["admin", "member"]
Password = Annotated[str, Meta(min_length=1, max_length=1024)]
"""Bounded, since hashing takes time by the byte. What is too weak is said by the service."""


class UserRecord(Confidential, frozen=True, kw_only=True):
    """A stored user. `email` is in lower case and unique; `staff` may administer the installation; epoch seconds."""

    id: str
    email: str
    password_hash: str
    staff: bool
    created_at: float
    disabled_at: float | None = None


class OrganisationRecord(Struct, frozen=True, kw_only=True):
    """A stored organisation: what owns keys, is limited and is billed."""

    id: str
    name: str
    tier: Tier
    created_at: float


class MemberRecord(Struct, frozen=True, kw_only=True):
    """A user's place in an organisation."""

    organisation: str
    user_id: str
    email: str
    role: Role
    joined_at: float


class SessionRecord(Confidential, frozen=True, kw_only=True):
    """A stored session: one row for all refresh tokens of one login, told apart by `counter`. Epoch seconds.

    `secret` keys the tokens' MAC; `refreshed_at` is when the counter last moved.
    """

    id: str
    user_id: str
    organisation: str
    counter: int
    secret: bytes
    created_at: float
    refreshed_at: float
    expires_at: float
    address: str
    user_agent: str
    ended_at: float | None = None


class Standing(Struct, frozen=True, kw_only=True):
    """What an access token's session is worth now: the session joined with its user, organisation and role."""

    session_id: str
    user_id: str
    email: str
    staff: bool
    organisation: str
    role: Role
    tier: Tier
    expires_at: float
    ended_at: float | None = None


class SignupRequest(Confidential, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask for an account. It gets an organisation of its own, of tier free."""

    email: Email
    password: Password


class User(Struct, frozen=True, kw_only=True):
    """A user as it may be shown."""

    id: str
    email: str


class LoginRequest(Confidential, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Open a session. `organisation` chooses among several; without it, the first that the user joined."""

    email: Email
    password: Password
    organisation: Id | None = None


class Tokens(Confidential, frozen=True, kw_only=True):
    """A session's tokens; `expires_in` is the access token's life in seconds."""

    access_token: str
    refresh_token: str
    token_type: str
    expires_in: int


class RefreshRequest(Confidential, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Trade a refresh token for new tokens."""

    refresh_token: Annotated[str, Meta(min_length=1, max_length=1024)]


class LogoutRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """End the session of the access token that is sent along, or, with `everywhere`, all sessions of its user."""

    everywhere: bool = False


class ChangePasswordRequest(Confidential, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Set a new password. All other sessions of the user end."""

    current_password: Password
    new_password: Password


class MeRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask who the caller is."""


class Me(Struct, frozen=True, kw_only=True):
    """Who the caller is and what it may do. A key has no `user_id`, a session no `key_id`."""

    user_id: str
    key_id: str
    email: str
    organisation: str
    role: str
    tier: str
    scopes: list[str]


class ListSessionsRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask for the caller's open sessions."""


class SessionView(Struct, frozen=True, kw_only=True):
    """A session as it may be shown; `current` marks the caller's own."""

    id: str
    organisation: str
    created_at: float
    refreshed_at: float
    expires_at: float
    address: str
    user_agent: str
    current: bool = False


class ListSessionsResponse(Struct, frozen=True, kw_only=True):
    """Sessions, newest first."""

    sessions: list[SessionView] = field(default_factory=list)


class EndSessionRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Name the session to end."""

    id: Id


class EndSessionsRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """End all sessions of the caller but the current one."""


class Ended(Struct, frozen=True, kw_only=True):
    """How many sessions ended."""

    ended: int


class ListOrganisationsRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask for the organisations of the caller, or for all as an administrator of the installation.

    `after` is the last one's id seen. A user has twenty at most, which come at once.
    """

    after: Id | None = None
    limit: PageSize = 100


class OrganisationView(Struct, frozen=True, kw_only=True):
    """An organisation; `role` is the caller's in it, empty when it has none."""

    id: str
    name: str
    tier: Tier
    created_at: float
    role: str = ""


class ListOrganisationsResponse(Struct, frozen=True, kw_only=True):
    """Organisations in the order of joining, or all, oldest first; `next` continues the list as `after`."""

    organisations: list[OrganisationView] = field(default_factory=list)
    next: str = ""


class CreateOrganisationRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask for an organisation; its maker becomes its admin. Only an administrator of the installation sets `tier`."""

    name: Name
    tier: Tier = "free"


class GetOrganisationRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Name an organisation."""

    id: Id


class UpdateOrganisationRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Change an organisation. Its tier, for all its keys and sessions, is set by an administrator of the installation."""

    id: Id
    name: Name | None = None
    tier: Tier | None = None


class ListMembersRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Name the organisation whose members to list."""

    id: Id


class MemberView(Struct, frozen=True, kw_only=True):
    """A member of an organisation."""

    user_id: str
    email: str
    role: Role
    joined_at: float


class ListMembersResponse(Struct, frozen=True, kw_only=True):
    """Members, in the order in which they joined."""

    members: list[MemberView] = field(default_factory=list)


class PutMemberRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Add a user, who must have signed up, to an organisation, or change the role that they have there."""

    id: Id
    email: Email
    role: Role = "member"


class RemoveMemberRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Take a user out of an organisation; their sessions there end."""

    id: Id
    user_id: Id


class ListUsersRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask for all users, or for the one with an `email`; `after` is the last one's id seen."""

    email: Email | None = None
    after: Id | None = None
    limit: PageSize = 100


class UserView(Struct, frozen=True, kw_only=True):
    """A user as an administrator sees it."""

    id: str
    email: str
    staff: bool
    created_at: float
    disabled_at: float | None = None


class ListUsersResponse(Struct, frozen=True, kw_only=True):
    """Users, oldest first; `next` continues the list as `after`, and is empty at its end."""

    users: list[UserView] = field(default_factory=list)
    next: str = ""


class CreateUserRequest(Confidential, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Make a user as an administrator, who alone may make `staff`."""

    email: Email
    password: Password
    staff: bool = False
    tier: Tier = "free"


class UpdateUserRequest(Confidential, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Disable or enable a user, or set a new password; all their sessions end."""

    id: Id
    disabled: bool | None = None
    password: Password | None = None
    staff: bool | None = None
