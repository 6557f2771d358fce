"""Rows about users, their sessions and their organisations."""

from __future__ import annotations

from phalanx.contract import users
from phalanx.operations.row import Body, Operation

AUTH: tuple[Operation, ...] = (
    Operation(
        name="auth.signup", request=users.SignupRequest, response=users.User, scope="open",
        http="POST /v1/auth/signup", grpc="Auth/Signup", run=lambda s, t, r: s.users.signup(t, r), metered=False,
        summary="Make an account, with an organisation of its own.",
        examples=({"email": "bob@example.org", "password": "three blind mice"},),
    ),
    Operation(
        name="auth.login", request=users.LoginRequest, response=users.Tokens, scope="open",
        http="POST /v1/auth/login", grpc="Auth/Login", run=lambda s, t, r: s.users.login(t, r), metered=False,
        summary="Open a session: an access token and a refresh token.",
    ),
    Operation(
        name="auth.refresh", request=users.RefreshRequest, response=users.Tokens, scope="open",
        http="POST /v1/auth/refresh", grpc="Auth/Refresh", run=lambda s, t, r: s.users.refresh(t, r), metered=False,
        summary="Trade a refresh token for new tokens; each works once.",
    ),
    Operation(
        name="auth.logout", request=users.LogoutRequest, response=users.Ended, scope=None,
        http="POST /v1/auth/logout", grpc="Auth/Logout", run=lambda s, t, r: s.users.logout(t, r), metered=False,
        summary="End this session, or all of the user.",
    ),
    Operation(
        name="auth.password", request=users.ChangePasswordRequest, response=users.Ended, scope=None,
        http="POST /v1/auth/password", grpc="Auth/Password", run=lambda s, t, r: s.users.change_password(t, r),
        summary="Change the password; all other sessions end.", metered=False, audit=True,
    ),
    Operation(
        name="auth.me", request=users.MeRequest, response=users.Me, scope=None, http="GET /v1/auth/me", grpc="Auth/Me",
        bodies=(Body.NONE,), run=lambda s, t, r: s.users.me(t, r), metered=False,
        summary="Say who the caller is, and what they may do.", examples=({},),
    ),
    Operation(
        name="sessions.list", request=users.ListSessionsRequest, response=users.ListSessionsResponse, scope=None,
        http="GET /v1/auth/sessions", grpc="Sessions/List", bodies=(Body.NONE,),
        run=lambda s, t, r: s.users.list_sessions(t, r), summary="List the user's open sessions.", metered=False,
    ),
    Operation(
        name="sessions.end_others", request=users.EndSessionsRequest, response=users.Ended, scope=None,
        http="DELETE /v1/auth/sessions", grpc="Sessions/EndOthers", bodies=(Body.NONE,),
        run=lambda s, t, r: s.users.end_sessions(t, r), summary="End all sessions but this one.", metered=False,
    ),
    Operation(
        name="sessions.end", request=users.EndSessionRequest, response=users.Ended, scope=None,
        http="DELETE /v1/auth/sessions/{id}", grpc="Sessions/End", bodies=(Body.NONE,),
        run=lambda s, t, r: s.users.end_session(t, r), summary="End one session.", metered=False,
    ),
)  # fmt: skip

ORGANISATIONS: tuple[Operation, ...] = (
    Operation(
        name="organisations.list", request=users.ListOrganisationsRequest, response=users.ListOrganisationsResponse,
        scope=None, http="GET /v1/organisations", grpc="Organisations/List", bodies=(Body.NONE,),
        run=lambda s, t, r: s.organisations.list(t, r), summary="List the caller's organisations.", metered=False,
        examples=({},),
    ),
    Operation(
        name="organisations.create", request=users.CreateOrganisationRequest, response=users.OrganisationView,
        scope=None, http="POST /v1/organisations", grpc="Organisations/Create",
        run=lambda s, t, r: s.organisations.create(t, r), summary="Make an organisation; whoever makes it is its admin.",
        metered=False, audit=True, examples=({"name": "Example Labs"},),
    ),
    Operation(
        name="organisations.get", request=users.GetOrganisationRequest, response=users.OrganisationView, scope=None,
        http="GET /v1/organisations/{id}", grpc="Organisations/Get", bodies=(Body.NONE,),
        run=lambda s, t, r: s.organisations.get(t, r), summary="Show an organisation.", metered=False,
    ),
    Operation(
        name="organisations.update", request=users.UpdateOrganisationRequest, response=users.OrganisationView,
        scope=None, http="PATCH /v1/organisations/{id}", grpc="Organisations/Update",
        run=lambda s, t, r: s.organisations.update(t, r), metered=False, audit=True,
        summary="Rename an organisation, or, as an administrator of the installation, set its tier.",
    ),
    Operation(
        name="members.list", request=users.ListMembersRequest, response=users.ListMembersResponse, scope=None,
        http="GET /v1/organisations/{id}/members", grpc="Members/List", bodies=(Body.NONE,),
        run=lambda s, t, r: s.organisations.members(t, r), summary="List the members.", metered=False,
    ),
    Operation(
        name="members.put", request=users.PutMemberRequest, response=users.MemberView, scope=None,
        http="POST /v1/organisations/{id}/members", grpc="Members/Put",
        run=lambda s, t, r: s.organisations.put_member(t, r), metered=False, audit=True,
        summary="Add a user as a member, or change a member's role.",
    ),
    Operation(
        name="members.remove", request=users.RemoveMemberRequest, response=users.MemberView, scope=None,
        http="DELETE /v1/organisations/{id}/members/{user_id}", grpc="Members/Remove", bodies=(Body.NONE,),
        run=lambda s, t, r: s.organisations.remove_member(t, r), metered=False, audit=True,
        summary="Take a member out; their sessions there end.",
    ),
)  # fmt: skip

USERS: tuple[Operation, ...] = (
    Operation(
        name="users.list", request=users.ListUsersRequest, response=users.ListUsersResponse, scope="admin",
        http="GET /v1/users", grpc="Users/List", bodies=(Body.NONE,), run=lambda s, t, r: s.users.list(t, r),
        summary="List all users.", metered=False, examples=({},),
    ),
    Operation(
        name="users.create", request=users.CreateUserRequest, response=users.UserView, scope="admin",
        http="POST /v1/users", grpc="Users/Create", run=lambda s, t, r: s.users.create(t, r),
        summary="Make a user.", metered=False, audit=True,
        examples=({"email": "carol@example.org", "password": "as the crow flies", "tier": "pro"},),
    ),
    Operation(
        name="users.update", request=users.UpdateUserRequest, response=users.UserView, scope="admin",
        http="PATCH /v1/users/{id}", grpc="Users/Update", run=lambda s, t, r: s.users.update(t, r),
        summary="Disable or enable a user, or set their password; all their sessions end.", metered=False, audit=True,
    ),
)  # fmt: skip

CALLERS: tuple[Operation, ...] = (*AUTH, *ORGANISATIONS, *USERS)
