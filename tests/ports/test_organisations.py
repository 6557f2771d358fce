"""What every `OrganisationStore` does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from callers import Callers, make_key, make_organisation, make_session
from phalanx.errors import Conflict, NotFound, PhalanxError

pytestmark = pytest.mark.anyio


async def roles(callers: Callers, organisation: str = "org-1") -> dict[str, str]:
    return {member.user_id: member.role for member in await callers.organisations.members(organisation)}


async def test_an_organisation_comes_back_as_it_was_added(callers: Callers) -> None:
    organisation = make_organisation(name="Ümlaut ' \" ; 漢字 😀", tier="scale", created_at=1_790_000_000.123456)
    await callers.organisations.add(organisation)
    assert await callers.organisations.get("org-1") == organisation
    assert await callers.organisations.members("org-1") == []
    assert await callers.organisations.get("org-2") is None
    assert await callers.organisations.members("org-2") == []


async def test_its_maker_is_its_admin(callers: Callers) -> None:
    await callers.sign_up(1)
    await callers.organisations.add(make_organisation(2), admin="user-1")
    assert await roles(callers, "org-2") == {"user-1": "admin"}


async def test_an_organisation_of_nobody_is_not_made(callers: Callers) -> None:
    with pytest.raises(NotFound, match="'user-1'"):
        await callers.organisations.add(make_organisation(1), admin="user-1")
    assert await callers.organisations.list() == []


async def test_an_id_that_is_taken_is_a_conflict_that_changes_nothing(callers: Callers) -> None:
    await callers.sign_up(1)
    await callers.sign_up(2)
    with pytest.raises(Conflict, match="'org-1'"):
        await callers.organisations.add(make_organisation(1, name="other"), admin="user-2")
    assert await callers.organisations.get("org-1") == make_organisation(1)
    assert await roles(callers) == {"user-1": "admin"}


async def test_organisations_are_listed_by_age_or_in_the_order_of_joining(callers: Callers) -> None:
    await callers.sign_up(1)
    for n, created_at in ((2, 30.0), (3, 10.0), (4, 20.0)):
        await callers.organisations.add(make_organisation(n, created_at=created_at))
    for organisation, at in (("org-2", 2_000.0), ("org-4", 1.0)):
        await callers.organisations.put_member(organisation, "user-1", "member", at=at)
    assert [found.id for found in await callers.organisations.list()] == ["org-3", "org-4", "org-2", "org-1"]
    assert [found.id for found in await callers.organisations.list_of("user-1")] == ["org-4", "org-1", "org-2"]
    assert await callers.organisations.list_of("nobody") == []


async def test_only_what_is_given_is_changed(callers: Callers) -> None:
    await callers.organisations.add(make_organisation(1))
    assert await callers.organisations.update("org-1", name="new") == make_organisation(1, name="new")
    assert await callers.organisations.update("org-1", tier="pro") == make_organisation(1, name="new", tier="pro")
    assert await callers.organisations.update("org-1") == make_organisation(1, name="new", tier="pro")
    assert await callers.organisations.get("org-1") == make_organisation(1, name="new", tier="pro")
    assert await callers.organisations.update("org-2", name="new", tier="pro") is None


async def test_a_tier_is_that_of_all_keys_and_sessions_which_are_told(callers: Callers) -> None:
    await callers.sign_up(1)
    await callers.sign_up(2)
    for n, organisation in ((1, "org-1"), (2, "org-1"), (3, "org-2")):
        await callers.keys.add(make_key(n, organisation=organisation))
    await callers.keys.add(make_key(4, organisation="org-1", tier="pro"))
    await callers.log_in(1)
    await callers.log_in(2, ended_at=2_500.0)
    await callers.log_in(3, organisation="org-2", user_id="user-2")
    await callers.organisations.update("org-1", tier="pro")
    assert [key.tier for key in await callers.keys.list()] == ["pro", "pro", "free", "pro"]
    told = [f"key:{1:064x}", f"key:{2:064x}", "session:session-1"]
    assert sorted(await callers.news(0)) == told
    version = await callers.changes.version()
    await callers.organisations.update("org-1", tier="pro", name="new")
    assert await callers.news(version) == []


async def test_members_are_in_the_order_of_joining_and_stay_there_when_their_role_changes(callers: Callers) -> None:
    for n in (1, 2, 3):
        await callers.sign_up(n)
    await callers.organisations.put_member("org-1", "user-2", "member", at=3_000.0)
    await callers.organisations.put_member("org-1", "user-3", "member", at=2_000.0)
    await callers.organisations.put_member("org-1", "user-3", "admin", at=4_000.0)
    members = await callers.organisations.members("org-1")
    assert [(member.user_id, member.role, member.joined_at) for member in members] == [
        ("user-1", "admin", 1_001.5),
        ("user-3", "admin", 2_000.0),
        ("user-2", "member", 3_000.0),
    ]
    assert {member.email for member in members} == {f"user{n}@example.org" for n in (1, 2, 3)}


@pytest.mark.parametrize(("organisation", "user_id"), [("org-9", "user-1"), ("org-1", "user-9")])
async def test_a_member_of_nothing_and_nobody_as_a_member_are_not_found(
    callers: Callers, organisation: str, user_id: str
) -> None:
    await callers.sign_up(1)
    with pytest.raises(NotFound, match="-9'"):
        await callers.organisations.put_member(organisation, user_id, "admin", at=2_000.0)
    assert await roles(callers) == {"user-1": "admin"}


async def test_the_last_admin_stays(callers: Callers) -> None:
    await callers.sign_up(1)
    await callers.sign_up(2)
    await callers.log_in(1)
    await callers.organisations.put_member("org-1", "user-2", "member", at=2_000.0)
    with pytest.raises(Conflict):
        await callers.organisations.put_member("org-1", "user-1", "member", at=3_000.0)
    with pytest.raises(Conflict):
        await callers.organisations.remove_member("org-1", "user-1", at=3_000.0)
    assert await roles(callers) == {"user-1": "admin", "user-2": "member"}
    assert await callers.sessions.get("session-1") == make_session(1)
    await callers.organisations.put_member("org-1", "user-2", "admin", at=4_000.0)
    assert await callers.organisations.remove_member("org-1", "user-1", at=5_000.0)
    assert await roles(callers) == {"user-2": "admin"}


@pytest.mark.parametrize("leaving", ["demoted", "removed"])
async def test_of_all_admins_leaving_at_once_one_stays(callers: Callers, leaving: str) -> None:
    for n in range(1, 7):
        await callers.sign_up(n)
        await callers.organisations.put_member("org-1", f"user-{n}", "admin", at=2_000.0)
    acts: list[Awaitable[object]] = [
        callers.organisations.put_member("org-1", f"user-{n}", "member", at=3_000.0)
        if leaving == "demoted"
        else callers.organisations.remove_member("org-1", f"user-{n}", at=3_000.0)
        for n in range(1, 7)
    ]
    outcomes = await asyncio.gather(*acts, return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, PhalanxError)]
    assert [type(outcome) for outcome in refused] == [Conflict]
    assert list((await roles(callers)).values()).count("admin") == 1


async def test_a_new_role_is_told_about_the_open_sessions_there(callers: Callers) -> None:
    await callers.sign_up(1)
    await callers.sign_up(2)
    await callers.organisations.put_member("org-1", "user-2", "member", at=2_000.0)
    await callers.log_in(1, user_id="user-2")
    await callers.log_in(2, user_id="user-2", ended_at=2_500.0)
    await callers.log_in(3, user_id="user-2", organisation="org-2")
    await callers.log_in(4)
    await callers.organisations.put_member("org-1", "user-2", "admin", at=3_000.0)
    assert await callers.news(0) == ["session:session-1"]


async def test_the_sessions_of_a_removed_member_end_there_and_are_told(callers: Callers) -> None:
    await callers.sign_up(1)
    await callers.sign_up(2)
    await callers.organisations.put_member("org-1", "user-2", "member", at=2_000.0)
    await callers.log_in(1, user_id="user-2")
    await callers.log_in(2, user_id="user-2", ended_at=2_500.0)
    await callers.log_in(3, user_id="user-2", organisation="org-2")
    assert await callers.organisations.remove_member("org-1", "user-2", at=3_000.0)
    assert not await callers.organisations.remove_member("org-1", "user-2", at=4_000.0)
    assert await roles(callers) == {"user-1": "admin"}
    assert await callers.news(0) == ["session:session-1"]
    ended = [await callers.sessions.get(f"session-{n}") for n in (1, 2, 3)]
    assert [session.ended_at for session in ended if session] == [3_000.0, 2_500.0, None]


async def test_who_is_no_member_cannot_be_removed(callers: Callers) -> None:
    await callers.sign_up(1)
    await callers.sign_up(2)
    assert not await callers.organisations.remove_member("org-1", "user-2", at=3_000.0)
    assert not await callers.organisations.remove_member("org-9", "user-1", at=3_000.0)
    assert await callers.news(0) == []
