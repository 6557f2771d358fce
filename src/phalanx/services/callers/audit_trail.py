"""What writes the audit log: one entry for each administrative call, whether it went well or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from phalanx.contract.audit import AuditEntry
from phalanx.errors import PhalanxError
from phalanx.ports import AuditLog, Clock
from phalanx.services.ticket import Call
from phalanx.telemetry import Log

NAMED_BY = ("id", "email", "name")
"""Fields of a request that say what it is about, the most exact first."""
MAX_SUBJECT_CHARS = 254


class AuditTrail:
    """Writes entries as calls end. The act is done by then: an entry that cannot be stored is logged instead, whole."""

    def __init__(self, entries: AuditLog, *, clock: Clock, new_id: Callable[[], str], log: Log) -> None:
        self._entries = entries
        self._clock = clock
        self._new_id = new_id
        self._log = log

    async def record(self, call: Call, action: str, status: str) -> None:
        """Store who did what, to whom, from where, and what came of it."""
        caller = call.caller
        assert caller is not None
        entry = AuditEntry(
            id=self._new_id(), at=self._clock.now(), actor=caller.user_id or caller.key_id or caller.subject,
            email=caller.email, organisation=caller.organisation, action=action, subject=_subject(call.request),
            address=call.credential.address, request_id=call.request_id, status=status,
        )  # fmt: skip
        try:
            await self._entries.append(entry)
        except BaseException as error:
            # Also when the client leaves meanwhile: it may be stored then or not.
            fields = {name: getattr(entry, name) for name in AuditEntry.__struct_fields__}
            self._log.error("audit entry not stored", reason=type(error).__name__, **fields)
            if not isinstance(error, PhalanxError):
                raise


def _subject(request: Any) -> str:
    found = next((value for name in NAMED_BY if (value := getattr(request, name, None))), "")
    return str(found)[:MAX_SUBJECT_CHARS]
