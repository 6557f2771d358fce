"""Organisations: who may see and change what."""

from __future__ import annotations

import asyncio

import pytest

from people import STAFF, People
from phalanx.contract.keys import DEFAULT_SCOPES, KeyRecord
from phalanx.contract.users import (
    CreateOrganisationRequest,
    GetOrganisationRequest,
    ListMembersRequest,
    ListOrganisationsRequest,
    PutMemberRequest,
    RemoveMemberRequest,
    UpdateOrganisationRequest,
)
from phalanx.errors import Conflict, Forbidden, InvalidRequest, NotFound
from phalanx.services.callers.organisations import MAX_PER_USER
from phalanx.services.ticket import Caller, Ticket


class House(People):
    """People with ann's organisation, where bob is a member and carol a stranger."""

    async def fill(self) -> None:
        self.ann, self.carol = await self.join("ann@example.org"), await self.join("carol@example.org")
        self.lab = self.ann.caller.organisation
        await self.signup("bob@example.org")
        self.clock.advance(1)
        await self.put(self.ann, "bob@example.org")
        self.bob = await self.enter(await self.login("bob@example.org", organisation=self.lab))

    async def put(self, ticket: Ticket, email: str, role: str = "member") -> None:
        await self.organisations.put_member(ticket, PutMemberRequest(id=self.lab, email=email, role=role))  # type: ignore[arg-type]

    async def remove(self, ticket: Ticket, user_id: str) -> None:
        await self.organisations.remove_member(ticket, RemoveMemberRequest(id=self.lab, user_id=user_id))

    def key(self, organisation: str) -> Ticket:
        return self.ticket(Caller(organisation, organisation, "key-1", "free", frozenset(DEFAULT_SCOPES)))


def house() -> tuple[asyncio.Runner, House]:
    runner, people = asyncio.Runner(), House()
    runner.run(people.fill())
    return runner, people


async def names(people: House, ticket: Ticket) -> list[tuple[str, str]]:
    answer = await people.organisations.list(ticket, ListOrganisationsRequest())
    return [(view.name, view.role) for view in answer.organisations]


def test_each_sees_their_own_organisations_and_their_role_in_them() -> None:
    runner, people = house()
    with runner:
        assert runner.run(names(people, people.ann)) == [("ann@example.org", "admin")]
        assert runner.run(names(people, people.bob)) == [("bob@example.org", "admin"), ("ann@example.org", "member")]
        assert runner.run(names(people, people.key(people.lab))) == [("ann@example.org", "")]
        assert runner.run(names(people, people.key("none"))) == []
        assert len(runner.run(names(people, people.ticket(STAFF)))) == 3


def test_what_one_may_not_see_is_not_there() -> None:
    """For a stranger, and for another organisation's key: by every row."""
    runner, people = house()
    with runner:
        for ticket in people.carol, people.key(people.carol.caller.organisation):
            for act in (
                people.organisations.get(ticket, GetOrganisationRequest(id=people.lab)),
                people.organisations.update(ticket, UpdateOrganisationRequest(id=people.lab, name="mine")),
                people.organisations.members(ticket, ListMembersRequest(id=people.lab)),
                people.put(ticket, "carol@example.org", "admin"),
                people.remove(ticket, people.ann.caller.user_id),
            ):
                with pytest.raises(NotFound):
                    runner.run(act)
        for ticket in people.ann, people.bob, people.key(people.lab), people.ticket(STAFF):
            assert runner.run(people.organisations.get(ticket, GetOrganisationRequest(id=people.lab))).id == people.lab
        with pytest.raises(NotFound):
            runner.run(people.organisations.get(people.ticket(STAFF), GetOrganisationRequest(id="none")))


def test_members_look_and_admins_change() -> None:
    runner, people = house()
    with runner:
        listed = runner.run(people.organisations.members(people.bob, ListMembersRequest(id=people.lab))).members
        assert [(member.email, member.role) for member in listed] == [("ann@example.org", "admin"), ("bob@example.org", "member")]  # fmt: skip
        for act in (
            people.organisations.update(people.bob, UpdateOrganisationRequest(id=people.lab, name="bob's")),
            people.put(people.bob, "carol@example.org"),
            people.put(people.bob, "bob@example.org", "admin"),
            people.remove(people.bob, people.ann.caller.user_id),
        ):
            with pytest.raises(Forbidden):
                runner.run(act)
        rename = UpdateOrganisationRequest(id=people.lab, name=" The Lab ")
        assert runner.run(people.organisations.update(people.ann, rename)).name == "The Lab"


def test_a_key_is_no_person() -> None:
    """It sees its organisation, but neither its members nor how to change it."""
    runner, people = house()
    with runner:
        for act in (
            people.organisations.members(people.key(people.lab), ListMembersRequest(id=people.lab)),
            people.organisations.update(people.key(people.lab), UpdateOrganisationRequest(id=people.lab, name="x")),
            people.put(people.key(people.lab), "carol@example.org"),
            people.organisations.create(people.key(people.lab), CreateOrganisationRequest(name="x")),
        ):
            with pytest.raises(Forbidden):
                runner.run(act)


def test_a_tier_is_set_by_administrators_of_the_installation_and_counts_for_keys_and_sessions() -> None:
    runner, people = house()
    with runner:
        record = KeyRecord(
            id="k", digest="0" * 64, hint="fe_", email="a@b", organisation=people.lab, name="n", tier="free",
            scopes=("text",), created_at=0.0,
        )  # fmt: skip
        runner.run(people.key_store.add(record))
        change = UpdateOrganisationRequest(id=people.lab, tier="pro")
        for ticket in people.ann, people.bob:
            with pytest.raises(Forbidden):
                runner.run(people.organisations.update(ticket, change))
        assert runner.run(people.organisations.update(people.ticket(STAFF), change)).tier == "pro"
        assert people.directory.keys["k"].tier == "pro"
        standing = runner.run(people.session_store.standing(people.ann.caller.session_id))
        assert standing is not None
        assert standing.tier == "pro"


def test_who_makes_an_organisation_is_its_admin() -> None:
    runner, people = house()
    with runner:
        made = runner.run(people.organisations.create(people.carol, CreateOrganisationRequest(name="Lab")))
        assert (made.role, made.tier, made.name) == ("admin", "free", "Lab")
        assert len(made.id) == 36
        assert ("Lab", "admin") in runner.run(names(people, people.carol))
        with pytest.raises(Forbidden, match="tier"):
            runner.run(people.organisations.create(people.carol, CreateOrganisationRequest(name="Lab", tier="scale")))
        paid = runner.run(
            people.organisations.create(people.ticket(STAFF), CreateOrganisationRequest(name="L", tier="scale"))
        )
        assert (paid.role, paid.tier) == ("", "scale")
        with pytest.raises(InvalidRequest):
            runner.run(people.organisations.create(people.carol, CreateOrganisationRequest(name="   ")))


def test_a_user_has_no_free_quota_without_end() -> None:
    runner, people = house()
    with runner:
        for number in range(MAX_PER_USER - 1):
            runner.run(people.organisations.create(people.carol, CreateOrganisationRequest(name=f"Lab {number}")))
        with pytest.raises(Conflict):
            runner.run(people.organisations.create(people.carol, CreateOrganisationRequest(name="one more")))
        with pytest.raises(Conflict):
            runner.run(people.put(people.ann, "carol@example.org"))


def test_a_changed_role_counts_at_once_and_is_told() -> None:
    runner, people = house()
    with runner:
        people.told.subjects.clear()
        runner.run(people.put(people.ann, "BOB@example.org", "admin"))
        standing = runner.run(people.session_store.standing(people.bob.caller.session_id))
        assert standing is not None
        assert standing.role == "admin"
        assert people.told.subjects == [f"session:{people.bob.caller.session_id}"]
        runner.run(people.remove(people.bob, people.ann.caller.user_id))
        with pytest.raises(NotFound):
            runner.run(people.organisations.get(people.ann, GetOrganisationRequest(id=people.lab)))


def test_who_is_taken_out_has_no_session_there_any_more() -> None:
    """The sessions elsewhere stay; whoever is no member cannot be taken out."""
    runner, people = house()
    with runner:
        elsewhere = runner.run(people.login("bob@example.org"))
        people.told.subjects.clear()
        runner.run(people.remove(people.ann, people.bob.caller.user_id))
        standing = runner.run(people.session_store.standing(people.bob.caller.session_id))
        assert standing is not None
        assert standing.ended_at is not None
        assert people.told.subjects == [f"session:{people.bob.caller.session_id}"]
        assert runner.run(people.is_open(elsewhere))
        for stranger in people.bob.caller.user_id, "nobody":
            with pytest.raises(NotFound):
                runner.run(people.remove(people.ann, stranger))


def test_members_may_leave_but_an_admin_stays() -> None:
    runner, people = house()
    with runner:
        runner.run(people.remove(people.bob, people.bob.caller.user_id))
        with pytest.raises(Conflict):
            runner.run(people.remove(people.ann, people.ann.caller.user_id))
        with pytest.raises(Conflict):
            runner.run(people.put(people.ann, "ann@example.org", "member"))


def test_who_has_not_signed_up_cannot_be_added() -> None:
    runner, people = house()
    with runner, pytest.raises(NotFound, match="sign up"):
        runner.run(people.put(people.ann, "dora@example.org"))
