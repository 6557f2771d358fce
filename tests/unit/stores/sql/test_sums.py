"""The sums of a day are those of its events, whatever came, however often, and whatever broke in between."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from phalanx.contract.usage import UsageEvent
from phalanx.errors import Unavailable
from phalanx.stores.days import id_bounds
from phalanx.stores.memory.usage import MemoryUsageLog
from phalanx.stores.sql.database import Database, migrate, open_database
from phalanx.stores.sql.usage import SqlUsageLog

DAYS = ("2026-03-14", "2026-03-15", "2026-04-01")
numbers = st.integers(0, 30)
names = st.sampled_from(["a", "b", ""])


@st.composite
def events(draw: st.DrawFn) -> UsageEvent:
    number = draw(numbers)
    day = DAYS[number % len(DAYS)]
    return UsageEvent(
        id=draw(st.sampled_from([f"{id_bounds(day)[0]}-7000-8000-{number:012x}", f"odd {number}"])), at=1.773e9,
        organisation=draw(names), key_id=draw(names), operation=draw(names), unit="token",
        units=draw(st.integers(0, 2**40)), tokens=draw(numbers), cached=draw(numbers), model=draw(names),
        status=draw(st.sampled_from(["ok", "cancelled", "internal"])), latency_ms=1.0,
        billed=draw(st.sampled_from([None, True, False])),
    )  # fmt: skip


@contextmanager
def failing_now_and_then(database: Database, failures: list[bool]) -> Iterator[None]:
    """Break the statement between the events and the sums of a batch, as often as the list says."""

    def look(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("INSERT INTO usage_daily") and failures and failures.pop():
            raise sqlite3.OperationalError("disk I/O error")

    engine = database._engine.sync_engine
    event.listen(engine, "before_cursor_execute", look)
    try:
        yield
    finally:
        event.remove(engine, "before_cursor_execute", look)


async def played(url: str, batches: list[list[UsageEvent]], failures: list[bool]) -> None:
    """Record batches, some of them in vain, and compare the ledger with one in memory that was told the rest."""
    database, model = open_database(url), MemoryUsageLog()
    async with database.transaction() as connection:
        for table in ("usage_events", "usage_daily"):
            await connection.exec_driver_sql(f"DELETE FROM {table}")
    log = SqlUsageLog(database)
    with failing_now_and_then(database, failures):
        for batch in batches:
            try:
                new = await log.record(batch)
            except Unavailable:
                continue
            # The ledger takes them in the order of their ids.
            assert new == await model.record(sorted(batch, key=lambda one: one.id))
    assert await log.totals() == await model.totals()
    assert await log.days() == await model.days()
    for day in await log.days():
        books = await log.books(day)
        assert books.events == books.sums == (await model.books(day)).sums
    assert await log.requests_by_organisation(since=0.0) == await model.requests_by_organisation(since=0.0)
    await database.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(events(), max_size=12), max_size=6), failures=st.lists(st.booleans(), max_size=8))
def test_sums_are_those_of_the_events(tmp_path: Path, batches: list[list[UsageEvent]], failures: list[bool]) -> None:
    url = f"sqlite:///{tmp_path / 'phalanx.db'}"
    migrate(url)
    asyncio.run(played(url, batches, failures))
