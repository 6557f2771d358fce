"""Notices to be delivered, in the database, for a worker without Redis."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, func, select, update

from phalanx.ports.webhooks import Notice, Put
from phalanx.stores.sql.database import Database
from phalanx.stores.sql.tables import webhooks

C = webhooks.c


class SqlOutbox:
    """An `Outbox` of `max_notices` over one table. The database is its maker's to close."""

    def __init__(self, database: Database, *, max_notices: int) -> None:
        self._database = database
        self._max_notices = max_notices

    async def put(self, notice: Notice, *, due_at: float) -> Put:
        """Keep a notice."""
        new = self._database.insert(webhooks).values(**notice._asdict(), due_at=due_at).on_conflict_do_nothing()
        async with self._database.transaction() as connection:
            if (await connection.execute(select(C.id).where(C.id == notice.id))).first() is not None:
                return "known"
            if (await connection.execute(select(func.count()).select_from(webhooks))).scalar_one() >= self._max_notices:
                return "full"
            return "new" if (await connection.execute(new)).rowcount else "known"

    async def claim(self, limit: int, *, now: float, lease_s: float) -> Sequence[Notice]:
        """Return notices that are due."""
        due = select(C.id, C.url, C.body, C.failures).where(C.due_at <= now).order_by(C.due_at, C.id).limit(limit)
        async with self._database.transaction() as connection:
            # Most looks find nothing, and keep nobody from writing.
            if (await connection.execute(due)).first() is None:
                return []
        async with self._database.exclusive() as connection:
            found = [Notice(*row) for row in (await connection.execute(due)).all()]
            ids = [notice.id for notice in found]
            await connection.execute(update(webhooks).where(C.id.in_(ids)).values(due_at=now + lease_s))
        return found

    async def put_back(self, notice: Notice, *, due_at: float) -> None:
        """Have a notice claimed again later."""
        change = update(webhooks).where(C.id == notice.id).values(due_at=due_at, failures=notice.failures)
        async with self._database.transaction() as connection:
            await connection.execute(change)

    async def remove(self, notice_id: str) -> None:
        """Forget a notice."""
        async with self._database.transaction() as connection:
            await connection.execute(delete(webhooks).where(C.id == notice_id))
