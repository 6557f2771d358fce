"""What every `UserStore` does."""

from __future__ import annotations

import asyncio

import pytest

from callers import Callers, make_organisation, make_user
from phalanx.contract.users import MemberRecord
from phalanx.errors import Conflict

pytestmark = pytest.mark.anyio


async def test_a_user_comes_back_as_they_were_added(callers: Callers) -> None:
    user = make_user(email="ümlaut'\";@例え.org", staff=True, created_at=1_790_000_000.123456, disabled_at=0.5)
    await callers.users.add(user, make_organisation(), "member")
    assert await callers.users.get("user-1") == user
    assert await callers.users.find(user.email) == user
    assert await callers.users.list() == [user]


async def test_a_user_has_an_organisation_of_their_own(callers: Callers) -> None:
    await callers.sign_up(1)
    assert await callers.organisations.get("org-1") == make_organisation(1)
    assert await callers.organisations.members("org-1") == [
        MemberRecord(organisation="org-1", user_id="user-1", email="user1@example.org", role="admin", joined_at=1_001.5)
    ]


async def test_nobody_is_none(callers: Callers) -> None:
    await callers.sign_up(1)
    assert await callers.users.get("user-2") is None
    assert await callers.users.find("") is None
    assert await callers.users.find("user1@example.or") is None
    assert await callers.users.update("user-2", staff=True) is None


async def test_an_email_is_kept_in_lower_case_and_once(callers: Callers) -> None:
    await callers.sign_up(1, email="Ann@Example.ORG")
    assert await callers.users.find("ann@example.org") == make_user(1, email="ann@example.org")
    for email in ("ann@example.org", "ANN@example.org"):
        with pytest.raises(Conflict) as refused:
            await callers.sign_up(2, email=email)
        assert "ann" not in refused.value.detail
    assert await callers.organisations.get("org-2") is None


@pytest.mark.parametrize("clash", ["user", "organisation"])
async def test_an_id_that_is_taken_is_a_conflict_that_changes_nothing(callers: Callers, clash: str) -> None:
    await callers.sign_up(1)
    user = make_user(2, id="user-1") if clash == "user" else make_user(2)
    organisation = make_organisation(1 if clash == "organisation" else 2, name="other")
    with pytest.raises(Conflict):
        await callers.users.add(user, organisation, "admin")
    assert await callers.users.list() == [make_user(1)]
    assert await callers.organisations.list() == [make_organisation(1)]


async def test_of_many_signups_with_one_email_at_once_one_wins(callers: Callers) -> None:
    attempts = [callers.sign_up(n, email="ann@example.org") for n in range(20)]
    results = await asyncio.gather(*attempts, return_exceptions=True)
    assert sum(isinstance(result, Conflict) for result in results) == 19
    assert len(await callers.users.list()) == len(await callers.organisations.list()) == 1


async def test_users_are_listed_oldest_first(callers: Callers) -> None:
    for n, created_at in ((1, 30.0), (2, 10.0), (3, 20.0)):
        await callers.sign_up(n, created_at=created_at)
    assert [user.id for user in await callers.users.list()] == ["user-2", "user-3", "user-1"]


async def test_only_what_is_given_is_changed(callers: Callers) -> None:
    await callers.sign_up(1)
    assert await callers.users.update("user-1", staff=True) == make_user(1, staff=True)
    assert await callers.users.update("user-1", disabled_at=3_000.5) == make_user(1, staff=True, disabled_at=3_000.5)
    changed = await callers.users.update("user-1", password_hash="new")
    assert changed == make_user(1, staff=True, disabled_at=3_000.5, password_hash="new")
    assert await callers.users.update("user-1") == changed
    assert await callers.users.update("user-1", disabled_at=None, staff=False) == make_user(1, password_hash="new")
    assert await callers.users.get("user-1") == make_user(1, password_hash="new")


async def test_a_change_is_told_about_the_open_sessions_of_the_user(callers: Callers) -> None:
    await callers.sign_up(1)
    await callers.sign_up(2)
    await callers.log_in(1)
    await callers.log_in(2, organisation="org-2")
    await callers.log_in(3, ended_at=2_500.0)
    await callers.log_in(4, user_id="user-2")
    assert await callers.news(0) == []
    await callers.users.update("user-1", password_hash="new")
    assert sorted(await callers.news(0)) == ["session:session-1", "session:session-2"]


async def test_a_hash_is_renewed_unless_the_password_was_changed_meanwhile(callers: Callers) -> None:
    user = await callers.sign_up(1)
    await callers.sign_up(2)
    await callers.log_in(1)
    await callers.users.rehash("user-1", user.password_hash, "renewed")
    assert await callers.users.get("user-1") == make_user(1, password_hash="renewed")
    await callers.users.rehash("user-1", user.password_hash, "late")
    await callers.users.rehash("nobody", user.password_hash, "late")
    assert await callers.users.list() == [make_user(1, password_hash="renewed"), make_user(2)]
    assert await callers.news(0) == []


async def test_a_list_of_users_comes_in_pages(callers: Callers) -> None:
    """So does that of the organisations which came with them."""
    for n in range(5):
        await callers.sign_up(n, created_at=10.0 + n // 2)
    for every, store in (
        (await callers.users.list(), callers.users),
        (await callers.organisations.list(), callers.organisations),
    ):
        assert len(every) == 5
        assert await store.list(limit=2) == every[:2]
        assert await store.list(after=every[1].id, limit=2) == every[2:4]
        assert await store.list(after=every[4].id) == await store.list(after="none-such") == []
