"""Jobs in the database, for a worker without Redis, which runs them itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import msgspec
from sqlalchemy import ColumnElement, and_, delete, func, or_, select, update

from phalanx.errors import Conflict
from phalanx.ports.jobs import ClaimedJob, JobRecord, NewJob
from phalanx.stores.sql.database import Database
from phalanx.stores.sql.tables import jobs

CALLER = "_caller"
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
C = jobs.c
COLUMNS = (
    C.id,
    C.organisation,
    C.operation,
    C.queue,
    C.state,
    C.data,
    C.made_at,
    C.failures,
    C.started_at,
    C.ended_at,
    C.progress,
)


class SqlJobs:
    """An `OwnJobs` over one table. The database is its maker's to close."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._watching: dict[str, set[asyncio.Event]] = {}
        self._wakes: list[Callable[[], None]] = []

    async def add(self, job: NewJob) -> bool:
        """Queue a job."""
        data = msgspec.json.encode({**_fields.decode(job.request), CALLER: job.token})
        row = {
            "id": job.id, "organisation": job.organisation, "operation": job.operation, "queue": job.queue,
            "state": "waiting", "data": data, "priority": job.priority, "due_at": job.made_at + job.delay_s,
            "attempts": job.attempts, "failures": 0, "stalled": 0, "deaths": 0, "leased_until": 0.0,
            "made_at": job.made_at, "result": b"", "reason": "",
        }  # fmt: skip
        new = self._database.insert(jobs).values(row).on_conflict_do_nothing()
        async with self._database.transaction() as connection:
            is_new = bool((await connection.execute(new)).rowcount)
        self._wake()
        return is_new

    async def find(self, organisation: str, job_id: str) -> JobRecord | None:
        """Return a job."""
        query = select(*COLUMNS, C.result, C.reason, C.due_at, C.leased_until)
        async with self._database.transaction() as connection:
            row = (await connection.execute(query.where(C.organisation == organisation, C.id == job_id))).one_or_none()
        return None if row is None else _record(row)

    async def list(self, organisation: str, *, after: str | None = None, limit: int = 100) -> list[JobRecord]:
        """Return jobs, newest first."""
        query = select(*COLUMNS, C.reason, C.due_at).where(C.organisation == organisation)
        if after is not None:
            made_at = select(C.made_at).where(C.id == after, C.organisation == organisation).scalar_subquery()
            query = query.where(or_(C.made_at < made_at, and_(C.made_at == made_at, C.id < after)))
        async with self._database.transaction() as connection:
            rows = (await connection.execute(query.order_by(C.made_at.desc(), C.id.desc()).limit(limit))).all()
        return [_record(row) for row in rows]

    async def remove(self, organisation: str, job_id: str) -> JobRecord | None:
        """Forget a job that does not run."""
        theirs = and_(C.organisation == organisation, C.id == job_id)
        found = await self.find(organisation, job_id)
        if found is None:
            return None
        async with self._database.transaction() as connection:
            gone = await connection.execute(delete(jobs).where(theirs, C.state != "active"))
        if not gone.rowcount and await self.find(organisation, job_id) is not None:
            raise Conflict("the job runs; it can no longer be cancelled")
        self._tell(job_id)
        return found

    @contextmanager
    def watch(self, job: JobRecord) -> Iterator[asyncio.Event]:
        """Tell of what this process does to a job; jobs are run where they are kept."""
        changed = asyncio.Event()
        watching = self._watching.setdefault(job.id, set())
        watching.add(changed)
        try:
            yield changed
        finally:
            watching.discard(changed)
            if not watching:
                self._watching.pop(job.id, None)

    async def claim(self, limit: int, *, now: float, lease_s: float) -> Sequence[ClaimedJob]:
        """Take jobs that are due, or that nobody is heard of any more."""
        lost = and_(C.state == "active", C.leased_until <= now)
        due = or_(and_(C.state == "waiting", C.due_at <= now), lost)
        chosen = select(C.id, C.state).where(due).order_by(C.priority, C.due_at, C.id).limit(limit)
        async with self._database.exclusive() as connection:
            found = (await connection.execute(chosen)).all()
            if not found:
                return []
            ids, stalled = [row.id for row in found], [row.id for row in found if row.state == "active"]
            if stalled:
                await connection.execute(update(jobs).where(C.id.in_(stalled)).values(stalled=C.stalled + 1))
            taken = update(jobs).where(C.id.in_(ids)).values(
                state="active", leased_until=now + lease_s, started_at=now, billed_at=func.coalesce(C.billed_at, now)
            )  # fmt: skip
            await connection.execute(taken)
            rows = (
                await connection.execute(
                    select(C.id, C.operation, C.queue, C.data, C.failures, C.attempts, C.stalled, C.deaths, C.billed_at)
                    .where(C.id.in_(ids))
                    .order_by(C.priority, C.due_at, C.id)
                )
            ).all()
        for one in ids:
            self._tell(one)
        return [ClaimedJob(*row) for row in rows]

    async def next_due(self) -> float | None:
        """Return when the first job is due that waits, or the first lease runs out."""
        waiting = select(func.min(C.due_at)).where(C.state == "waiting")
        leased = select(func.min(C.leased_until)).where(C.state == "active")
        async with self._database.transaction() as connection:
            instants = [(await connection.execute(query)).scalar_one() for query in (waiting, leased)]
        return min((one for one in instants if one is not None), default=None)

    @contextmanager
    def call_when_due(self, wake: Callable[[], None]) -> Iterator[None]:
        """Tell of jobs that this process queues."""
        self._wakes.append(wake)
        try:
            yield
        finally:
            self._wakes.remove(wake)

    async def renew(self, job_ids: Sequence[str], *, until: float) -> None:
        """Keep jobs for longer."""
        async with self._database.transaction() as connection:
            await connection.execute(update(jobs).where(C.id.in_(job_ids)).values(leased_until=until))

    async def note_alone(self, job_id: str) -> None:
        """Count that a job begins to run alone."""
        await self._update(job_id, deaths=C.deaths + 1)

    async def note_progress(self, job_id: str, progress: bytes) -> None:
        """Keep how far a job has come."""
        await self._update(job_id, C.state == "active", progress=progress)

    async def complete(self, job_id: str, result: bytes, *, at: float) -> None:
        """Keep what a job has brought."""
        await self._update(job_id, state="completed", result=result, reason="", ended_at=at)

    async def fail(self, job_id: str, reason: str, *, at: float) -> None:
        """Keep why a job has failed."""
        await self._update(job_id, state="failed", reason=reason, ended_at=at, failures=C.failures + 1)

    async def put_back(self, job_id: str, *, due_at: float, reason: str = "", failed: bool = False) -> None:
        """Have a job run later."""
        changes = {"state": "waiting", "due_at": due_at, "reason": reason, "deaths": 0}
        await self._update(job_id, **changes, failures=C.failures + int(failed))

    async def expire(self, *, before: float) -> int:
        """Forget jobs that ended before an instant."""
        ended = delete(jobs).where(C.state.in_(("completed", "failed")), C.ended_at < before)
        async with self._database.transaction() as connection:
            return int((await connection.execute(ended)).rowcount)

    async def _update(self, job_id: str, *which: ColumnElement[bool], **values: object) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(update(jobs).where(C.id == job_id, *which).values(**values))
        self._tell(job_id)

    def _tell(self, job_id: str) -> None:
        for changed in self._watching.get(job_id, ()):
            changed.set()

    def _wake(self) -> None:
        for wake in self._wakes:
            wake()


def _record(row: object) -> JobRecord:
    values = row._asdict()  # type: ignore[attr-defined]
    fields = _fields.decode(values.pop("data"))
    fields.pop(CALLER, None)
    due_at = values.pop("due_at")
    values.pop("leased_until", None)
    values["progress"] = values["progress"] or b""
    if values["state"] == "waiting" and due_at > values["made_at"]:
        values["state"] = "delayed"
    return JobRecord(request=msgspec.json.encode(fields), **values)
