"""Organisations and their members in memory."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from phalanx.contract.keys import Tier
from phalanx.contract.users import MemberRecord, OrganisationRecord, Role, UserRecord
from phalanx.errors import Conflict, NotFound
from phalanx.stores.memory.directory import MemoryDirectory
from phalanx.stores.memory.pages import page


class MemoryOrganisationStore:
    """An `OrganisationStore` over a directory."""

    def __init__(self, directory: MemoryDirectory) -> None:
        self._directory = directory

    async def add(self, organisation: OrganisationRecord, *, admin: str | None = None) -> None:
        """Store an organisation, with a user as its admin if given. Raises `Conflict` and `NotFound`; see the port."""
        directory = self._directory
        if organisation.id in directory.organisations:
            raise Conflict(f"there is an organisation {organisation.id!r} already")
        user = None if admin is None else self._user(admin)
        directory.organisations[organisation.id] = organisation
        if user is not None:
            self._join(organisation.id, user, "admin", at=organisation.created_at)

    async def get(self, organisation: str) -> OrganisationRecord | None:
        """Return an organisation or None."""
        return self._directory.organisations.get(organisation)

    async def update(
        self, organisation: str, *, name: str | None = None, tier: Tier | None = None
    ) -> OrganisationRecord | None:
        """Change what is given; a tier also that of all its keys, which are then told to the change feed."""
        directory = self._directory
        before = directory.organisations.get(organisation)
        if before is None:
            return None
        after = replace(before, name=name or before.name, tier=tier or before.tier)
        directory.organisations[organisation] = after
        if tier is not None:
            keys = [key for key in directory.keys.values() if key.organisation == organisation and key.tier != tier]
            for key in keys:
                directory.put_key(replace(key, tier=tier))
            directory.tell_keys(keys)
        if after.tier != before.tier:
            directory.tell_sessions(directory.open_sessions(organisation=organisation))
        return after

    async def members(self, organisation: str) -> list[MemberRecord]:
        """Return the members in the order of joining; none for an organisation that is not there."""
        found = (member for member in self._directory.members.values() if member.organisation == organisation)
        return sorted(found, key=lambda member: (member.joined_at, member.user_id))

    async def list(self, *, after: str | None = None, limit: int | None = None) -> list[OrganisationRecord]:
        """Return organisations, oldest first: at most `limit`, of those after the id `after`."""
        return page(self._directory.organisations.values(), after=after, limit=limit)

    async def list_of(self, user_id: str) -> Sequence[OrganisationRecord]:
        """Return the organisations of a user in the order of joining."""
        found = self._directory.organisations
        joined = [member for member in self._directory.members.values() if member.user_id == user_id]
        return [found[m.organisation] for m in sorted(joined, key=lambda m: (m.joined_at, m.organisation))]

    async def put_member(self, organisation: str, user_id: str, role: Role, *, at: float) -> None:
        """Add a member, or change a member's role. Raises `NotFound` and `Conflict`; see the port."""
        directory = self._directory
        if organisation not in directory.organisations:
            raise NotFound(f"there is no organisation {organisation!r}")
        user = self._user(user_id)
        if role != "admin":
            self._keep_an_admin(organisation, besides=user_id)
        known = directory.members.get((organisation, user_id))
        self._join(organisation, user, role, at=at if known is None else known.joined_at)
        directory.tell_sessions(directory.open_sessions(user_id=user_id, organisation=organisation))

    async def remove_member(self, organisation: str, user_id: str, *, at: float) -> bool:
        """Take a member out and end their sessions there. Raises `Conflict`; see the port."""
        directory = self._directory
        if (organisation, user_id) not in directory.members:
            return False
        self._keep_an_admin(organisation, besides=user_id)
        del directory.members[organisation, user_id]
        ended = directory.open_sessions(user_id=user_id, organisation=organisation)
        for session in ended:
            directory.sessions[session.id] = replace(session, ended_at=at)
        directory.tell_sessions(ended)
        return True

    def _user(self, user_id: str) -> UserRecord:
        user = self._directory.users.get(user_id)
        if user is None:
            raise NotFound(f"there is no user {user_id!r}")
        return user

    def _join(self, organisation: str, user: UserRecord, role: Role, *, at: float) -> None:
        self._directory.members[organisation, user.id] = MemberRecord(
            organisation=organisation, user_id=user.id, email=user.email, role=role, joined_at=at
        )

    def _keep_an_admin(self, organisation: str, *, besides: str) -> None:
        """Raise `Conflict` if the user `besides` is the only admin."""
        members = [m for m in self._directory.members.values() if m.organisation == organisation]
        admins = {m.user_id for m in members if m.role == "admin"}
        if admins == {besides}:
            raise Conflict("an organisation keeps at least one admin: make another member one first")
