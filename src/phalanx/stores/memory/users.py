"""Users in memory."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from phalanx.contract.users import MemberRecord, OrganisationRecord, Role, UserRecord
from phalanx.errors import Conflict
from phalanx.stores.memory.directory import MemoryDirectory
from phalanx.stores.memory.pages import page


class MemoryUserStore:
    """A `UserStore` over a directory."""

    def __init__(self, directory: MemoryDirectory) -> None:
        self._directory = directory

    async def add(self, user: UserRecord, organisation: OrganisationRecord, role: Role) -> None:
        """Store a user together with an organisation of their own. Raises `Conflict`; see the port."""
        directory, email = self._directory, user.email.lower()
        if user.id in directory.users or email in directory.ids_by_email:
            raise Conflict("there is a user with this email already")
        if organisation.id in directory.organisations:
            raise Conflict(f"there is an organisation {organisation.id!r} already")
        directory.users[user.id] = replace(user, email=email)
        directory.ids_by_email[email] = user.id
        directory.organisations[organisation.id] = organisation
        directory.members[organisation.id, user.id] = MemberRecord(
            organisation=organisation.id, user_id=user.id, email=email, role=role, joined_at=user.created_at
        )

    async def get(self, user_id: str) -> UserRecord | None:
        """Return a user, disabled ones too, or None."""
        return self._directory.users.get(user_id)

    async def find(self, email: str) -> UserRecord | None:
        """Return the user with this email, which is in lower case, or None."""
        return self._directory.users.get(self._directory.ids_by_email.get(email, ""))

    async def list(self, *, after: str | None = None, limit: int | None = None) -> list[UserRecord]:
        """Return users, oldest first: at most `limit`, of those after the id `after`."""
        return page(self._directory.users.values(), after=after, limit=limit)

    async def update(
        self, user_id: str, *, password_hash: str | None = None, disabled_at: float | UnsetType | None = UNSET,
        staff: bool | None = None,
    ) -> UserRecord | None:  # fmt: skip
        """Change what is given, and tell the user's open sessions to the change feed; see the port."""
        user = self._directory.users.get(user_id)
        if user is None:
            return None
        changed: dict[str, Any] = {"disabled_at": user.disabled_at if disabled_at is UNSET else disabled_at}
        if password_hash is not None:
            changed["password_hash"] = password_hash
        if staff is not None:
            changed["staff"] = staff
        user = self._directory.users[user_id] = replace(user, **changed)
        self._directory.tell_sessions(self._directory.open_sessions(user_id=user_id))
        return user

    async def rehash(self, user_id: str, former: str, password_hash: str) -> None:
        """Store another hash of the same password, unless the stored one is not `former` any more."""
        user = self._directory.users.get(user_id)
        if user is not None and user.password_hash == former:
            self._directory.users[user_id] = replace(user, password_hash=password_hash)
