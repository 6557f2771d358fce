"""What every `SessionStore` does."""

from __future__ import annotations

import asyncio

import pytest

from callers import Callers, make_session
from phalanx.contract.users import Standing

pytestmark = pytest.mark.anyio


def standing(**changes: object) -> Standing:
    fields = {
        "session_id": "session-1", "user_id": "user-1", "email": "user1@example.org", "staff": False,
        "organisation": "org-1", "role": "admin", "tier": "free", "expires_at": 9_000.0,
    }  # fmt: skip
    return Standing(**{**fields, **changes})  # type: ignore[arg-type]


async def test_a_session_comes_back_as_it_was_added(callers: Callers) -> None:
    await callers.sign_up(1)
    session = make_session(
        counter=2**40, secret=b"\x00\xff" * 16, created_at=1_790_000_000.123456, address="2001:db8::1",
        user_agent="Ümlaut ' \" ; 漢字 😀", ended_at=1_790_000_001.5,
    )  # fmt: skip
    await callers.sessions.add(session)
    assert await callers.sessions.get("session-1") == session
    assert await callers.sessions.get("session-2") is None


async def test_the_counter_moves_from_where_it_stands_only(callers: Callers) -> None:
    await callers.sign_up(1)
    await callers.log_in(1)
    moved = make_session(1, counter=1, refreshed_at=3_000.5)
    assert await callers.sessions.advance("session-1", counter=0, at=3_000.5) == moved
    assert await callers.sessions.get("session-1") == moved
    for counter in (0, 2, -1):
        assert await callers.sessions.advance("session-1", counter=counter, at=4_000.0) is None
    assert await callers.sessions.advance("session-2", counter=0, at=4_000.0) is None
    assert await callers.sessions.get("session-1") == moved
    assert await callers.news(0) == []


async def test_the_counter_of_an_ended_session_stands(callers: Callers) -> None:
    await callers.sign_up(1)
    await callers.log_in(1, ended_at=2_500.0)
    assert await callers.sessions.advance("session-1", counter=0, at=3_000.0) is None


async def test_of_many_who_move_the_counter_at_once_one_wins(callers: Callers) -> None:
    await callers.sign_up(1)
    await callers.log_in(1)
    attempts = [callers.sessions.advance("session-1", counter=0, at=3_000.0 + n) for n in range(20)]
    moved = [session for session in await asyncio.gather(*attempts) if session is not None]
    assert [session.counter for session in moved] == [1]
    assert await callers.sessions.get("session-1") == moved[0]


async def test_the_standing_joins_session_user_and_organisation(callers: Callers) -> None:
    await callers.sign_up(1, staff=True)
    await callers.log_in(1)
    assert await callers.sessions.standing("session-1") == standing(staff=True)
    assert await callers.sessions.standing("session-2") is None
    await callers.organisations.update("org-1", tier="scale")
    assert await callers.sessions.standing("session-1") == standing(staff=True, tier="scale")


async def test_the_standing_of_a_member(callers: Callers) -> None:
    await callers.sign_up(1)
    await callers.sign_up(2)
    await callers.organisations.put_member("org-2", "user-1", "member", at=2_000.0)
    await callers.log_in(1, organisation="org-2")
    assert await callers.sessions.standing("session-1") == standing(organisation="org-2", role="member")


async def test_the_standing_of_an_ended_session(callers: Callers) -> None:
    await callers.sign_up(1)
    await callers.log_in(1)
    await callers.sessions.end("session-1", at=3_000.5)
    assert await callers.sessions.standing("session-1") == standing(ended_at=3_000.5)


async def test_the_session_of_a_disabled_user_is_worth_nothing(callers: Callers) -> None:
    await callers.sign_up(1)
    await callers.log_in(1)
    await callers.users.update("user-1", disabled_at=3_000.5)
    assert await callers.sessions.standing("session-1") == standing(ended_at=3_000.5)
    await callers.users.update("user-1", disabled_at=None)
    assert await callers.sessions.standing("session-1") == standing()


@pytest.mark.parametrize("organisation", ["org-2", "gone"])
async def test_the_session_of_no_member_is_worth_nothing(callers: Callers, organisation: str) -> None:
    await callers.sign_up(1)
    await callers.sign_up(2)
    await callers.log_in(1, organisation=organisation)
    found = await callers.sessions.standing("session-1")
    assert found is not None
    assert found.ended_at is not None
    assert found.role == "member"


async def test_a_removed_member_who_joins_again_has_to_log_in_again(callers: Callers) -> None:
    await callers.sign_up(1)
    await callers.sign_up(2)
    await callers.organisations.put_member("org-2", "user-1", "member", at=2_000.0)
    await callers.log_in(1, organisation="org-2")
    await callers.organisations.remove_member("org-2", "user-1", at=3_000.0)
    await callers.organisations.put_member("org-2", "user-1", "admin", at=4_000.0)
    found = await callers.sessions.standing("session-1")
    assert found is not None
    assert found.ended_at == 3_000.0


async def test_open_sessions_are_listed_newest_first(callers: Callers) -> None:
    await callers.sign_up(1)
    await callers.sign_up(2)
    for n, created_at in ((1, 20.0), (2, 30.0), (3, 10.0)):
        await callers.log_in(n, created_at=created_at)
    await callers.log_in(4, ended_at=2_500.0)
    await callers.log_in(5, expires_at=1.0, created_at=5.0)
    await callers.log_in(6, user_id="user-2")
    assert [session.id for session in await callers.sessions.list("user-1")] == [
        "session-2", "session-1", "session-3", "session-5",
    ]  # fmt: skip
    assert await callers.sessions.list("nobody") == []


async def test_a_session_ends_once_and_is_told_once(callers: Callers) -> None:
    await callers.sign_up(1)
    await callers.log_in(1)
    assert await callers.sessions.end("session-1", at=3_000.5)
    assert not await callers.sessions.end("session-1", at=4_000.5)
    assert not await callers.sessions.end("session-2", at=3_000.5)
    assert await callers.sessions.get("session-1") == make_session(1, ended_at=3_000.5)
    assert await callers.news(0) == ["session:session-1"]


async def test_of_many_who_end_a_session_at_once_one_did(callers: Callers) -> None:
    await callers.sign_up(1)
    await callers.log_in(1)
    ends = await asyncio.gather(*(callers.sessions.end("session-1", at=3_000.0 + n) for n in range(20)))
    assert sum(ends) == 1
    assert await callers.news(0) == ["session:session-1"]


@pytest.mark.parametrize(("keep", "ended"), [(None, [1, 2, 3]), ("session-2", [1, 3]), ("session-9", [1, 2, 3])])
async def test_all_sessions_of_a_user_end_but_one(callers: Callers, keep: str | None, ended: list[int]) -> None:
    await callers.sign_up(1)
    await callers.sign_up(2)
    for n in (1, 2, 3):
        await callers.log_in(n)
    await callers.log_in(4, ended_at=2_500.0)
    await callers.log_in(5, user_id="user-2")
    assert await callers.sessions.end_all("user-1", at=3_000.0, keep=keep) == len(ended)
    assert sorted(await callers.news(0)) == [f"session:session-{n}" for n in ended]
    left = {session.id for session in await callers.sessions.list("user-1")}
    assert left == {f"session-{n}" for n in {1, 2, 3} - set(ended)}
    assert await callers.sessions.get("session-4") == make_session(4, ended_at=2_500.0)
    assert await callers.sessions.get("session-5") == make_session(5, user_id="user-2")


async def test_what_expired_or_ended_long_ago_is_forgotten(callers: Callers) -> None:
    await callers.sign_up(1)
    await callers.log_in(1, expires_at=2_999.0)
    await callers.log_in(2, ended_at=2_999.0)
    await callers.log_in(3, expires_at=3_000.0)
    await callers.log_in(4, ended_at=3_000.0)
    await callers.log_in(5)
    assert await callers.sessions.forget(before=3_000.0) == 2
    assert await callers.sessions.forget(before=3_000.0) == 0
    known = [await callers.sessions.get(f"session-{n}") for n in range(1, 6)]
    assert [session is not None for session in known] == [False, False, True, True, True]
    assert await callers.news(0) == []
