"""Sessions: rotation, honest double use, theft, and a model of it all."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule
from msgspec.structs import replace

from people import ACCESS_TTL_S, REFRESH_TTL_S, People
from phalanx.contract.users import (
    ChangePasswordRequest,
    EndSessionRequest,
    EndSessionsRequest,
    LogoutRequest,
    SessionRecord,
    Tokens,
    UpdateUserRequest,
)
from phalanx.errors import NotFound, SessionEnded, Unauthenticated
from phalanx.services.callers.sessions import GRACE_S, KEPT_S, MAX_LIFE, MAX_PER_USER
from phalanx.services.callers.tokens import read_refresh_token, refresh_token


class House(People):
    """People with one user, ann."""

    ann = ""

    async def open(self) -> Tokens:
        self.ann = self.ann or (await self.signup("ann@example.org")).id
        organisation = next(iter(self.directory.organisations))
        session = await self.sessions.open(self.ann, organisation, address="192.0.2.1", user_agent="tests")
        return self.sessions.tokens(session)

    def session(self, tokens: Tokens) -> SessionRecord:
        return self.directory.sessions[read_refresh_token(tokens.refresh_token).session_id]


def test_a_refresh_brings_new_tokens_of_the_same_session() -> None:
    async def scenario() -> None:
        house = House()
        first = await house.open()
        house.clock.advance(60)
        second = await house.sessions.refresh(first.refresh_token)
        assert second.refresh_token != first.refresh_token
        assert house.session(second).id == house.session(first).id
        assert house.verifier.verify(second.access_token).issued_at == int(house.clock.now())
        assert (second.token_type, second.expires_in) == ("Bearer", 900)
        assert house.session(second).counter == 1

    asyncio.run(scenario())


def test_who_did_not_hear_the_answer_may_ask_again_for_ten_seconds() -> None:
    """And gets the same refresh token as the first time; the counter stays."""

    async def scenario() -> None:
        house = House()
        first = await house.open()
        second = await house.sessions.refresh(first.refresh_token)
        house.clock.advance(GRACE_S - 0.001)
        again = await house.sessions.refresh(first.refresh_token)
        assert again.refresh_token == second.refresh_token
        third = await house.sessions.refresh(again.refresh_token)
        assert house.session(third).counter == 2

    asyncio.run(scenario())


@pytest.mark.parametrize("set_back_s", [1.0, 9.0])
def test_a_clock_that_is_set_back_a_little_is_no_theft(set_back_s: float) -> None:
    async def scenario() -> None:
        house = House()
        first = await house.open()
        second = await house.sessions.refresh(first.refresh_token)
        house.clock.advance(-set_back_s)
        assert (await house.sessions.refresh(first.refresh_token)).refresh_token == second.refresh_token

    asyncio.run(scenario())


def test_a_copy_that_is_used_later_ends_the_session_for_both() -> None:
    """The end is stored and told although the answer is an error; the owner's newest tokens are worth nothing, too."""

    async def scenario() -> None:
        house = House()
        stolen = await house.open()
        owner = await house.sessions.refresh(stolen.refresh_token)
        house.clock.advance(GRACE_S)
        with pytest.raises(SessionEnded, match="used before"):
            await house.sessions.refresh(stolen.refresh_token)
        assert house.session(owner).ended_at == house.clock.now()
        assert house.told.subjects[-1] == f"session:{house.session(owner).id}"
        assert not await house.is_open(owner)
        for tokens in owner, stolen:
            with pytest.raises(SessionEnded, match="log in again"):
                await house.sessions.refresh(tokens.refresh_token)

    asyncio.run(scenario())


def test_a_token_two_behind_ends_the_session_at_once() -> None:
    """The grace is for the last one only."""

    async def scenario() -> None:
        house = House()
        first = await house.open()
        second = await house.sessions.refresh(first.refresh_token)
        await house.sessions.refresh(second.refresh_token)
        with pytest.raises(SessionEnded):
            await house.sessions.refresh(first.refresh_token)

    asyncio.run(scenario())


def test_the_thief_who_is_first_is_found_out_when_the_owner_comes() -> None:
    async def scenario() -> None:
        house = House()
        owner = await house.open()
        thief = await house.sessions.refresh(owner.refresh_token)
        house.clock.advance(60)
        with pytest.raises(SessionEnded):
            await house.sessions.refresh(owner.refresh_token)
        with pytest.raises(SessionEnded):
            await house.sessions.refresh(thief.refresh_token)

    asyncio.run(scenario())


def test_many_refreshes_at_once_get_the_same_new_token() -> None:
    """Two tabs, or twenty: one moves the counter, all go on."""

    async def scenario() -> None:
        house = House()
        tokens = await house.open()
        for counter in range(1, 6):
            answers = await asyncio.gather(*(house.sessions.refresh(tokens.refresh_token) for _ in range(20)))
            assert len({answer.refresh_token for answer in answers}) == 1
            assert house.session(tokens).counter == counter
            tokens = answers[0]

    asyncio.run(scenario())


def test_a_race_that_is_lost_between_look_and_step_is_read_again() -> None:
    """With a store that is slow, as a database is."""

    async def scenario() -> None:
        house = House()
        tokens = await house.open()
        advance = house.session_store.advance

        async def slowly(session_id: str, *, counter: int, at: float) -> SessionRecord | None:
            await asyncio.sleep(0.001)
            return await advance(session_id, counter=counter, at=at)

        house.session_store.advance = slowly  # type: ignore[method-assign]
        answers = await asyncio.gather(*(house.sessions.refresh(tokens.refresh_token) for _ in range(10)))
        assert len({answer.refresh_token for answer in answers}) == 1
        assert house.session(tokens).counter == 1

    asyncio.run(scenario())


def test_a_session_that_ends_while_it_is_refreshed_stays_ended() -> None:
    async def scenario() -> None:
        house = House()
        tokens = await house.open()
        advance = house.session_store.advance

        async def late(session_id: str, *, counter: int, at: float) -> SessionRecord | None:
            await house.session_store.end(session_id, at=at)
            return await advance(session_id, counter=counter, at=at)

        house.session_store.advance = late  # type: ignore[method-assign]
        with pytest.raises(SessionEnded):
            await house.sessions.refresh(tokens.refresh_token)

    asyncio.run(scenario())


def test_a_token_of_another_secret_or_a_counter_ahead_is_refused_and_ends_nothing() -> None:
    """A forged one, and one from before a backup was restored."""

    async def scenario() -> None:
        house = House()
        tokens = await house.open()
        session = house.session(tokens)
        for forged in (
            replace(session, secret=b"x" * 32),
            replace(session, counter=1),
            replace(session, id=house.new_id()),
        ):
            with pytest.raises(Unauthenticated):
                await house.sessions.refresh(refresh_token(forged))
        with pytest.raises(Unauthenticated):
            await house.sessions.refresh(tokens.access_token)
        assert await house.is_open(tokens)

    asyncio.run(scenario())


def test_a_session_that_nobody_refreshes_is_over_and_so_is_one_that_is_too_old() -> None:
    async def scenario() -> None:
        house = House()
        idle, busy = await house.open(), await house.open()
        for _ in range(MAX_LIFE * 2 - 1):
            house.clock.advance(REFRESH_TTL_S / 2)
            busy = await house.sessions.refresh(busy.refresh_token)
        with pytest.raises(SessionEnded):
            await house.sessions.refresh(idle.refresh_token)
        assert house.session(busy) in await house.sessions.list(house.ann)
        assert house.session(idle) not in await house.sessions.list(house.ann)
        house.clock.advance(REFRESH_TTL_S / 2)
        with pytest.raises(SessionEnded):
            await house.sessions.refresh(busy.refresh_token)

    asyncio.run(scenario())


def test_an_access_token_never_outlives_its_session() -> None:
    async def scenario() -> None:
        house = House()
        tokens = await house.open()
        for _ in range(MAX_LIFE * 2 - 1):
            house.clock.advance(REFRESH_TTL_S / 2)
            tokens = await house.sessions.refresh(tokens.refresh_token)
        house.clock.advance(REFRESH_TTL_S / 2 - 100)
        last = await house.sessions.refresh(tokens.refresh_token)
        assert last.expires_in == 100 < ACCESS_TTL_S
        assert house.verifier.verify(last.access_token).expires_at == house.session(last).expires_at

    asyncio.run(scenario())


def test_of_a_user_with_too_many_sessions_the_oldest_ends() -> None:
    async def scenario() -> None:
        house = House()
        opened = []
        for _ in range(MAX_PER_USER + 2):
            house.clock.advance(1)
            opened.append(await house.open())
        assert [await house.is_open(tokens) for tokens in opened] == [False] * 2 + [True] * MAX_PER_USER

    asyncio.run(scenario())


def test_sessions_that_are_long_over_are_forgotten() -> None:
    async def scenario() -> None:
        house = House()
        tokens, _ = await house.open(), await house.open()
        await house.sessions.end(house.session(tokens).id)
        house.clock.advance(KEPT_S)
        assert await house.sessions.tidy() == 0
        house.clock.advance(1)
        assert await house.sessions.tidy() == 1
        with pytest.raises(Unauthenticated):
            await house.sessions.refresh(tokens.refresh_token)

    asyncio.run(scenario())


class Machine(RuleBasedStateMachine):
    """Two users with their sessions against a model: for each session who holds which counter, and whether it is over.

    Refresh tokens of any age are used at any time, in between logouts, password changes, disabling and a moving clock.
    """

    tokens = Bundle("tokens")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.people = People()
        self.passwords = {"ann@example.org": 0, "bob@example.org": 0}
        self.ids = {email: self.run(self.people.signup(email, self.password(email))).id for email in self.passwords}
        self.disabled: set[str] = set()
        self.model: dict[str, dict[str, Any]] = {}

    def teardown(self) -> None:
        self.people.passwords.close()
        self.loop.close()

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def password(self, email: str) -> str:
        return f"{email} has password number {self.passwords[email]}"

    def known(self, tokens: Tokens) -> dict[str, Any]:
        return self.model[read_refresh_token(tokens.refresh_token).session_id]

    def end(self, email: str, *, keep: str | None = None) -> None:
        for name, session in self.model.items():
            if session["email"] == email and name != keep:
                session["over"] = True

    def is_idle(self, session: dict[str, Any]) -> bool:
        now = self.people.clock.now()
        return bool(now >= session["refreshed"] + REFRESH_TTL_S or now >= session["created"] + MAX_LIFE * REFRESH_TTL_S)

    @rule(target=tokens, email=st.sampled_from(["ann@example.org", "bob@example.org"]), right=st.booleans())
    def log_in(self, email: str, right: bool) -> Any:
        self.people.clock.advance(61)
        try:
            tokens = self.run(self.people.login(email, self.password(email) if right else "some other password"))
        except Unauthenticated:
            assert not right or email in self.disabled
            return multiple()
        assert right
        assert email not in self.disabled
        now = self.people.clock.now()
        name = read_refresh_token(tokens.refresh_token).session_id
        self.model[name] = {"email": email, "counter": 0, "created": now, "refreshed": now, "over": False}
        return tokens

    @rule(target=tokens, used=tokens)
    def refresh(self, used: Tokens) -> Any:
        session, now = self.known(used), self.people.clock.now()
        behind = session["counter"] - read_refresh_token(used.refresh_token).counter
        alive = not session["over"] and not self.is_idle(session)
        fits = alive and (behind == 0 or (behind == 1 and abs(now - session["refreshed"]) < GRACE_S))
        try:
            fresh = self.run(self.people.sessions.refresh(used.refresh_token))
        except SessionEnded:
            assert not fits
            session["over"] = session["over"] or alive
            return multiple()
        assert fits
        if behind == 0:
            session["counter"] += 1
            session["refreshed"] = now
        assert read_refresh_token(fresh.refresh_token).counter == session["counter"]
        return fresh

    @rule(seconds=st.sampled_from([1.0, 5.0, 9.9, 10.0, 600.0, REFRESH_TTL_S / 2, REFRESH_TTL_S, -3.0]))
    def time_passes(self, seconds: float) -> None:
        self.people.clock.advance(seconds)

    @rule(used=tokens, how=st.sampled_from(["logout", "everywhere", "others", "password", "one"]))
    def a_user_acts(self, used: Tokens, how: str) -> None:
        session, name = self.known(used), read_refresh_token(used.refresh_token).session_id
        if session["over"] or self.is_idle(session):
            return
        users, email = self.people.users, session["email"]
        self.people.clock.advance(6)
        # Whatever tokens its owner holds, the gate asks what the session is worth.
        ticket = self.run(self.people.enter(self.people.sessions.tokens(self.people.directory.sessions[name])))
        if how == "logout":
            self.run(users.logout(ticket, LogoutRequest()))
            session["over"] = True
        elif how == "everywhere":
            self.run(users.logout(ticket, LogoutRequest(everywhere=True)))
            self.end(email)
        elif how == "others":
            self.run(users.end_sessions(ticket, EndSessionsRequest()))
            self.end(email, keep=name)
        elif how == "one":
            for other, theirs in self.model.items():
                try:
                    self.run(users.end_session(ticket, EndSessionRequest(id=other)))
                except NotFound:
                    assert theirs["email"] != email or theirs["over"]
                else:
                    assert theirs["email"] == email
                    assert not theirs["over"]
                    theirs["over"] = True
                    break
        else:
            current = self.password(email)
            self.passwords[email] += 1
            request = ChangePasswordRequest(current_password=current, new_password=self.password(email))
            self.run(users.change_password(ticket, request))
            self.end(email, keep=name)

    @rule(email=st.sampled_from(["ann@example.org", "bob@example.org"]), disabled=st.booleans())
    def an_administrator_disables_or_enables(self, email: str, disabled: bool) -> None:
        self.run(
            self.people.users.update(self.people.ticket(), UpdateUserRequest(id=self.ids[email], disabled=disabled))
        )
        (self.disabled.add if disabled else self.disabled.discard)(email)
        self.end(email)

    @invariant()
    def the_gate_sees_what_the_model_says(self) -> None:
        for name, session in self.model.items():
            standing = self.run(self.people.session_store.standing(name))
            assert (standing.ended_at is not None) == session["over"]
            if session["over"]:
                assert f"session:{name}" in self.people.told.subjects


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
