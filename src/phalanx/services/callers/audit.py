"""Reading the audit log; `audit_trail.py` writes it."""

from __future__ import annotations

from phalanx.contract.audit import ListAuditRequest, ListAuditResponse
from phalanx.ports import AuditLog
from phalanx.services.ticket import Ticket


class AuditService:
    """Shows administrators of the installation what was done."""

    def __init__(self, entries: AuditLog) -> None:
        self._entries = entries

    async def list(self, ticket: Ticket, request: ListAuditRequest) -> ListAuditResponse:
        """Return a page of entries, newest first."""
        limit = request.limit
        found = await self._entries.list(
            organisation=request.organisation, action=request.action, before=request.before, limit=limit + 1
        )
        page = found[:limit]
        return ListAuditResponse(entries=page, next=page[-1].id if len(found) > limit else "")
