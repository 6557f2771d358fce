"""The stores of callers over one backend, and records to put into them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from phalanx.contract.audit import AuditEntry
from phalanx.contract.keys import KeyRecord
from phalanx.contract.users import OrganisationRecord, SessionRecord, UserRecord
from phalanx.ports import AuditLog, ChangeFeed, KeyStore, OrganisationStore, SessionStore, UserStore
from phalanx.stores.memory.audit import MemoryAuditLog
from phalanx.stores.memory.changes import MemoryChangeFeed
from phalanx.stores.memory.directory import MemoryDirectory
from phalanx.stores.memory.keys import MemoryKeyStore
from phalanx.stores.memory.organisations import MemoryOrganisationStore
from phalanx.stores.memory.sessions import MemorySessionStore
from phalanx.stores.memory.users import MemoryUserStore
from phalanx.stores.sql.audit import SqlAuditLog
from phalanx.stores.sql.changes import SqlChangeFeed
from phalanx.stores.sql.database import Database
from phalanx.stores.sql.keys import SqlKeyStore
from phalanx.stores.sql.organisations import SqlOrganisationStore
from phalanx.stores.sql.sessions import SqlSessionStore
from phalanx.stores.sql.users import SqlUserStore


@dataclass(frozen=True)
class Callers:
    """All that is known of callers, in one place."""

    keys: KeyStore
    users: UserStore
    organisations: OrganisationStore
    sessions: SessionStore
    changes: ChangeFeed
    audit: AuditLog

    async def sign_up(self, n: int = 1, **changes: Any) -> UserRecord:
        """Store user number `n` with the organisation `org-n`, of which they are the admin."""
        user = make_user(n, **changes)
        await self.users.add(user, make_organisation(n), "admin")
        return user

    async def log_in(self, n: int = 1, **changes: Any) -> SessionRecord:
        """Store session number `n`."""
        session = make_session(n, **changes)
        await self.sessions.add(session)
        return session

    async def news(self, since: int) -> list[str]:
        """Return what the feed says since a version, which must be all of it."""
        found = await self.changes.since(since)
        assert found is not None
        assert found.version == await self.changes.version()
        return found.subjects


def in_memory() -> Callers:
    """Return the adapters of one process."""
    directory = MemoryDirectory()
    return Callers(
        MemoryKeyStore(directory), MemoryUserStore(directory), MemoryOrganisationStore(directory),
        MemorySessionStore(directory), MemoryChangeFeed(directory), MemoryAuditLog(),
    )  # fmt: skip


def in_database(database: Database) -> Callers:
    """Return the adapters over a database."""
    return Callers(
        SqlKeyStore(database), SqlUserStore(database), SqlOrganisationStore(database),
        SqlSessionStore(database), SqlChangeFeed(database), SqlAuditLog(database),
    )  # fmt: skip


def make_key(n: int = 1, **changes: Any) -> KeyRecord:
    """Return the record of key number `n`, with any field set otherwise."""
    fields = {
        "id": f"key-{n}", "digest": f"{n:064x}", "hint": "fe_abcdef", "email": "ann@example.org",
        "organisation": "ann@example.org", "name": f"number {n}", "tier": "free", "scopes": ("text", "usage"),
        "created_at": 1_000.25 + n, "expires_at": None, "revoked_at": None,
    }  # fmt: skip
    return KeyRecord(**{**fields, **changes})


def make_user(n: int = 1, **changes: Any) -> UserRecord:
    """Return the record of user number `n`, with any field set otherwise."""
    fields = {
        "id": f"user-{n}", "email": f"user{n}@example.org", "password_hash": "$argon2id$v=19$m=8,t=1,p=1$c2FsdA$aGFzaA",
        "staff": False, "created_at": 1_000.5 + n,
    }  # fmt: skip
    return UserRecord(**{**fields, **changes})


def make_organisation(n: int = 1, **changes: Any) -> OrganisationRecord:
    """Return the record of organisation number `n`, with any field set otherwise."""
    fields = {"id": f"org-{n}", "name": f"number {n}", "tier": "free", "created_at": 1_000.5 + n}
    return OrganisationRecord(**{**fields, **changes})


def make_session(n: int = 1, **changes: Any) -> SessionRecord:
    """Return the record of session number `n`, of user 1 in organisation 1, with any field set otherwise."""
    fields = {
        "id": f"session-{n}", "user_id": "user-1", "organisation": "org-1", "counter": 0, "secret": bytes(range(32)),
        "created_at": 2_000.5 + n, "refreshed_at": 2_000.5 + n, "expires_at": 9_000.0, "address": "192.0.2.1",
        "user_agent": "curl/8",
    }  # fmt: skip
    return SessionRecord(**{**fields, **changes})


def make_entry(n: int = 1, **changes: Any) -> AuditEntry:
    """Return entry number `n` of an audit log, with any field set otherwise."""
    fields = {
        "id": f"019a6f0e-5c1b-7000-8000-{n:012x}", "at": 1_000.25 + n, "actor": "user-1", "email": "ann@example.org",
        "organisation": "org-1", "action": "keys.revoke", "subject": f"key-{n}", "address": "192.0.2.1",
        "request_id": f"request-{n}", "status": "ok",
    }  # fmt: skip
    return AuditEntry(**{**fields, **changes})
