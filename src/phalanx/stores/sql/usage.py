"""The usage ledger in the database: single events, and sums of them by day."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any

import msgspec
from sqlalchemy import String, Table, TextClause, bindparam, delete, func, literal, select, text, union, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from phalanx.contract.usage import OK, UsageEvent, UsageRow, UsageTotals
from phalanx.ports import Books, SumKey, UsageQuery
from phalanx.stores.days import DAY_S, by_day, day_at, id_bounds
from phalanx.stores.sql.database import Database
from phalanx.stores.sql.partitions import Partitions
from phalanx.stores.sql.tables import usage_daily, usage_events, usage_expired, usage_writers

KEY = SumKey._fields
SUMS = UsageTotals.__struct_fields__
DELETE_STEP = 1_000
LOST_AFTER_S = 86_400.0
_key_of = attrgetter(*KEY)
_by_id = attrgetter("id")
_escaped_nul = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")


class SqlUsageLog:
    """A `UsageLedger` over a few tables. The database is its maker's to close; `now` gives epoch seconds.

    Several processes may share it, each with a journal in front that says by `announce` how far it has got. One that
    has not been heard of for a day holds `complete_until` back no longer: its machine is taken for lost.
    """

    def __init__(self, database: Database, *, now: Callable[[], float] = time.time) -> None:
        self._database = database
        self._now = now
        postgres = database.dialect.name == "postgresql"
        self.is_shared = postgres
        self._partitions = Partitions(database, now) if postgres else None
        self._insert = _insert_events(database)
        self._move = _move_sums(database)

    async def record(self, events: Sequence[UsageEvent]) -> int:
        """Append events and move the sums by those that are new, in one transaction. Returns how many are new."""
        if not events:
            return 0
        # In one order everywhere, so that no two workers wait for each other.
        days = by_day(sorted(events, key=_by_id))
        if self._partitions is not None:
            await self._partitions.make(day for day, _ in days)

        async def insert(connection: AsyncConnection) -> int:
            return sum([await self._record_day(connection, day, batch) for day, batch in days])

        return await self._database.run(insert)

    async def _record_day(self, connection: AsyncConnection, day: str, events: Sequence[UsageEvent]) -> int:
        rows = [msgspec.structs.astuple(event) for event in events]
        inserted = await connection.execute(self._insert, {"day": day, "rows": _json(rows)})
        new = set(inserted.scalars())
        if new:
            await connection.execute(self._move, {"day": day, "rows": _json(_sum_up(_only(events, new)))})
        return len(new)

    async def totals(self, *, organisation: str | None = None, since: float = 0.0, until: float = 1e12) -> UsageTotals:
        """Sum the events with `since <= at < until` (epoch seconds), of one organisation or of all."""
        query = select(*_sums_of_events()).where(usage_events.c.at >= since, usage_events.c.at < until)
        if organisation is not None:
            query = query.where(usage_events.c.organisation == organisation)
        async with self._database.transaction() as connection:
            return _totals((await connection.execute(query)).one())

    async def report(self, query: UsageQuery) -> list[UsageRow]:
        """Read the daily sums, grouped, in the groups' order."""
        columns = usage_daily.c
        group = {"day": columns.day, "key": columns.key_id, "operation": columns.operation, "model": columns.model}
        by = group[query.by]
        statement = select(by, *(func.sum(columns[name]) for name in SUMS)).group_by(by)
        statement = statement.where(columns.day >= query.since, columns.day <= query.until)
        if query.organisation is not None:
            statement = statement.where(columns.organisation == query.organisation)
        async with self._database.transaction() as connection:
            rows = (await connection.execute(statement)).all()
        # Sorted here, since databases differ in how they compare texts.
        found = [UsageRow(group=row[0], **_named(row[1:])) for row in rows]
        return sorted(found, key=attrgetter("group"))

    async def requests_by_organisation(self, *, since: float) -> dict[str, int]:
        """Count the billed requests of the days from that of `since` (epoch seconds) on."""
        billed = func.sum(usage_daily.c.billed)
        query = select(usage_daily.c.organisation, billed).where(usage_daily.c.day >= day_at(since))
        query = query.group_by(usage_daily.c.organisation).having(billed > 0)
        async with self._database.transaction() as connection:
            return {row[0]: int(row[1]) for row in await connection.execute(query)}

    async def complete_until(self, *, besides: str = "") -> float:
        """Return the least of what the journals announced, the one called `besides` left out; now if there is none."""
        now = self._now()
        query = select(func.min(usage_writers.c.complete_until)).where(
            usage_writers.c.journal != besides, usage_writers.c.seen_at >= now - LOST_AFTER_S
        )
        async with self._database.transaction() as connection:
            found = (await connection.execute(query)).scalar_one()
        return now if found is None else min(now, found)

    async def announce(self, journal: str, complete_until: float) -> None:
        """Note that everything of a journal up to an instant (epoch seconds) is in the ledger. Raises `Unavailable`."""
        values = {"complete_until": complete_until, "seen_at": self._now()}
        statement = self._database.insert(usage_writers).values(journal=journal, **values)
        statement = statement.on_conflict_do_update(index_elements=["journal"], set_=values)
        async with self._database.transaction() as connection:
            await connection.execute(statement)

    async def dismiss(self, journals: Iterable[str]) -> None:
        """Forget journals of which nothing more will come. Raises `Unavailable`."""
        async with self._database.transaction() as connection:
            await connection.execute(delete(usage_writers).where(usage_writers.c.journal.in_(list(journals))))

    async def days(self) -> list[str]:
        """Return the days that have events or sums, in order, without those whose events were let go."""
        known = union(select(usage_daily.c.day), select(usage_events.c.day)).subquery()
        query = select(known.c.day).where(known.c.day.not_in(select(usage_expired.c.day)))
        async with self._database.transaction() as connection:
            return sorted((await connection.execute(query)).scalars())

    async def books(self, day: str) -> Books:
        """Return both books of a day as of one moment: it is one statement."""
        key = [usage_events.c[name] for name in KEY]
        events = select(literal(1), *key, *_sums_of_events()).where(usage_events.c.day == day).group_by(*key)
        daily = [usage_daily.c[name] for name in (*KEY, *SUMS)]
        query = union_all(events, select(literal(0), *daily).where(usage_daily.c.day == day))
        books = Books({}, {})
        async with self._database.transaction() as connection:
            for from_events, *row in await connection.execute(query):
                book = books.events if from_events else books.sums
                book[SumKey(*row[: len(KEY)])] = _totals(row[len(KEY) :])
        return books

    async def repair(self, day: str) -> None:
        """Make the sums of a day anew from its events, in one transaction that keeps other writers of sums out."""
        key = [usage_events.c[name] for name in KEY]
        anew = select(literal(day), *key, *_sums_of_events()).where(usage_events.c.day == day).group_by(*key)
        async with self._database.transaction() as connection:
            if self.is_shared:
                await connection.execute(text("LOCK TABLE usage_daily IN SHARE ROW EXCLUSIVE MODE"))
            await connection.execute(delete(usage_daily).where(usage_daily.c.day == day))
            await connection.execute(usage_daily.insert().from_select(["day", *KEY, *SUMS], anew))

    async def expire(self, days: int) -> int:
        """Let go of the events of days more than `days` days ago; see the port. Raises `Unavailable`."""
        first = min(day_at(self._now() - days * DAY_S), day_at(await self.complete_until()))
        old = select(usage_daily.c.day).where(usage_daily.c.day < first).distinct()
        marked = self._database.insert(usage_expired).from_select(["day"], old)
        async with self._database.transaction() as connection:
            gone = (await connection.execute(marked.on_conflict_do_nothing())).rowcount
        if self._partitions is not None:
            await self._partitions.drop(before=first)
        else:
            await self._delete(before=first)
        return gone

    async def _delete(self, *, before: str) -> None:
        """Delete the events before a day in steps, so that other writers get their turn in between."""
        columns = usage_events.c
        old = select(columns.id).where(columns.id < id_bounds(before)[0], columns.day < before).limit(DELETE_STEP)
        deleted = DELETE_STEP
        while deleted == DELETE_STEP:
            async with self._database.transaction() as connection:
                deleted = (await connection.execute(delete(usage_events).where(columns.id.in_(old)))).rowcount

    async def ping(self) -> None:
        """Return when the store answers; raise `Unavailable` when it does not."""
        await self._database.ping()

    async def close(self) -> None:
        """Give back nothing: the database is closed by whoever opened it."""


def _insert_events(database: Database) -> TextClause:
    """Return the statement that inserts the events of one day and tells the ids that were new.

    All of a batch is one parameter, which takes the event loop a fraction of what handing over rows would.
    """
    fields = UsageEvent.__struct_fields__
    given = _given(database, usage_events, fields)
    given["billed"] = f"COALESCE({given['billed']}, {given['status']} = 'ok')"
    return text(
        f"INSERT INTO usage_events (day, {', '.join(fields)}) SELECT :day, {', '.join(given.values())} "  # noqa: S608
        f"FROM {_rows(database)} WHERE true ON CONFLICT DO NOTHING RETURNING id"
    ).bindparams(bindparam("day"), bindparam("rows"))


def _move_sums(database: Database) -> TextClause:
    """Return the statement that adds to the sums of one day."""
    names = (*KEY, *SUMS)
    moved = ", ".join(f"{name} = usage_daily.{name} + excluded.{name}" for name in SUMS)
    given = _given(database, usage_daily, names)
    return text(
        f"INSERT INTO usage_daily (day, {', '.join(names)}) SELECT :day, {', '.join(given.values())} "  # noqa: S608
        f"FROM {_rows(database)} WHERE true ON CONFLICT (day, {', '.join(KEY)}) DO UPDATE SET {moved}"
    ).bindparams(bindparam("day"), bindparam("rows"))


def _rows(database: Database) -> str:
    """Return a table expression over the parameter `rows`, an array of arrays in JSON, in its order."""
    if database.dialect.name == "postgresql":
        return "jsonb_array_elements(CAST(:rows AS jsonb))"
    return "json_each(:rows)"


def _given(database: Database, table: Table, names: Sequence[str]) -> dict[str, str]:
    """Return an expression for each column, by its place in a row."""
    if database.dialect.name != "postgresql":
        return {name: f"json_extract(value, '$[{place}]')" for place, name in enumerate(names)}
    kinds = [table.c[name].type for name in names]
    types = ["TEXT" if isinstance(kind, String) else kind.compile(database.dialect) for kind in kinds]
    return {name: f"CAST(value ->> {place} AS {types[place]})" for place, name in enumerate(names)}


def _json(rows: Sequence[Sequence[Any]]) -> str:
    document = msgspec.json.encode(rows).decode()
    # PostgreSQL keeps no NUL in a text, and one such event would hold up all that come after it.
    if "\\" in document and "\\u0000" in document:
        return _escaped_nul.sub(r"\1\\ufffd", document)
    return document


def _only(events: Sequence[UsageEvent], new: set[str]) -> Sequence[UsageEvent]:
    """Return the events that were inserted; of several with one id that is the first."""
    if len(new) == len(events):
        return events
    first = {event.id: event for event in reversed(events)}
    return [event for event in first.values() if event.id in new]


def _sum_up(events: Iterable[UsageEvent]) -> list[tuple[Any, ...]]:
    """Return the sums of events as rows, in the order of their keys."""
    found: dict[tuple[str, ...], list[int]] = {}
    for event in events:
        key = _key_of(event)
        sums = found.get(key)
        if sums is None:
            sums = found[key] = [0] * len(SUMS)
        well = event.status == OK
        sums[0] += 1
        sums[1] += well if event.billed is None else event.billed
        sums[2] += event.units
        sums[3] += event.tokens
        sums[4] += event.cached
        sums[5] += not well
    return [(*key, *found[key]) for key in sorted(found)]


def _sums_of_events() -> list[Any]:
    """Return the columns of `UsageTotals` over events."""
    columns = usage_events.c
    added = [func.coalesce(func.sum(columns[name]), 0) for name in ("units", "tokens", "cached")]
    return [func.count(), func.count().filter(columns.billed), *added, func.count().filter(columns.status != OK)]


def _named(sums: Sequence[Any]) -> dict[str, int]:
    return dict(zip(SUMS, map(int, sums), strict=True))


def _totals(sums: Sequence[Any]) -> UsageTotals:
    return UsageTotals(**_named(sums))
