"""The audit trail: an act that was done is told of, in the log if nowhere else."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import CapturingLogger

from phalanx.contract.audit import AuditEntry
from phalanx.contract.keys import RevokeKeyRequest
from phalanx.errors import Unavailable
from phalanx.services.callers.audit_trail import AuditTrail
from phalanx.services.ticket import Call, Caller, Credential
from phalanx.stores.memory.audit import MemoryAuditLog

CALLER = Caller("o-1", "o-1", "key-1", "pro", frozenset(), "ann@example.org")


class HandClock:
    """Stands still."""

    def now(self) -> float:
        return 1_790_000_000.0

    def monotonic(self) -> float:
        return 0.0


class Failing(MemoryAuditLog):
    """Fails in one way."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self._error = error

    async def append(self, entry: AuditEntry) -> None:
        raise self._error


async def record(entries: MemoryAuditLog, log: Any) -> None:
    trail = AuditTrail(entries, clock=HandClock(), new_id=lambda: "id-1", log=log)
    call = Call(Credential("key", address="192.0.2.1"), "request-1")
    call.caller, call.request = CALLER, RevokeKeyRequest(id="key-9")
    await trail.record(call, "keys.revoke", "ok")


def test_who_did_what_to_whom_from_where() -> None:
    """One entry."""
    entries = MemoryAuditLog()
    asyncio.run(record(entries, CapturingLogger()))
    (entry,) = asyncio.run(entries.list(organisation=None, action=None, before=None, limit=10))
    assert (entry.actor, entry.organisation, entry.action, entry.subject) == ("key-1", "o-1", "keys.revoke", "key-9")
    assert (entry.address, entry.request_id, entry.status) == ("192.0.2.1", "request-1", "ok")


@pytest.mark.parametrize("error", [Unavailable("the database is down"), asyncio.CancelledError()])
def test_an_entry_that_cannot_be_stored_is_logged_whole(error: BaseException) -> None:
    """The database is down: the act stands. The client leaves meanwhile: it goes on leaving."""
    log = CapturingLogger()

    async def scenario() -> None:
        if isinstance(error, Unavailable):
            await record(Failing(error), log)
        else:
            with pytest.raises(asyncio.CancelledError):
                await record(Failing(error), log)

    asyncio.run(scenario())
    (said,) = log.calls
    assert said.kwargs["subject"] == "key-9"
    assert said.kwargs["actor"] == "key-1"
