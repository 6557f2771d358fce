"""What every `UsageLog` does, the one behind a journal too."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import structlog

from phalanx.contract.usage import UsageEvent, UsageTotals
from phalanx.errors import Unavailable
from phalanx.ports import UsageLog
from phalanx.stores.memory.usage import MemoryUsageLog
from phalanx.stores.sql.database import open_database
from phalanx.stores.sql.journal import JournaledUsageLog
from phalanx.stores.sql.sqlite import sqlite_path
from phalanx.stores.sql.usage import SqlUsageLog

pytestmark = pytest.mark.anyio
MakeEvent = Callable[..., UsageEvent]


@pytest.fixture(params=["memory", "sql", "journal"])
async def log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[UsageLog]:
    if request.param == "memory":
        yield MemoryUsageLog()
        return
    database = open_database(request.getfixturevalue("database_url"))
    ledger = SqlUsageLog(database)
    if request.param == "sql":
        yield ledger
    else:
        journal = JournaledUsageLog(ledger, tmp_path / "usage", log=structlog.get_logger())
        await journal.open()
        yield journal
        await journal.close()
    await database.close()


async def test_nothing_recorded_sums_to_nothing(log: UsageLog) -> None:
    assert await log.totals() == UsageTotals()
    assert await log.requests_by_organisation(since=0.0) == {}
    assert await log.record([]) == 0


async def test_events_are_summed(log: UsageLog, make_event: MakeEvent) -> None:
    events = [
        make_event(1, units=10, tokens=11, cached=1),
        make_event(2, units=20, tokens=22, cached=0, status="overloaded"),
        make_event(3, units=2**40, tokens=33, cached=2),
    ]
    assert await log.record(events) == 3
    assert await log.totals() == UsageTotals(requests=3, units=30 + 2**40, tokens=66, cached=3, errors=1)


async def test_an_event_counts_once_however_often_it_comes(log: UsageLog, make_event: MakeEvent) -> None:
    await log.record([make_event(1), make_event(2), make_event(1)])
    await log.record([make_event(2, units=99, status="internal"), make_event(3)])
    assert await log.totals() == UsageTotals(requests=3, units=3, tokens=3)


@pytest.mark.parametrize("adapter", ["memory", "sql"])
async def test_the_number_of_new_events_is_told(adapter: str, database_url: str, make_event: MakeEvent) -> None:
    database = open_database(database_url)
    log: UsageLog = MemoryUsageLog() if adapter == "memory" else SqlUsageLog(database)
    assert await log.record([make_event(n) for n in range(700)]) == 700
    assert await log.record([make_event(n) for n in range(690, 710)]) == 10
    assert await log.record([make_event(9_999), make_event(0), make_event(9_999)]) == 1
    assert await log.record([make_event(0)]) == 0
    await database.close()


async def test_overlapping_batches_at_once_count_every_event_once(log: UsageLog, make_event: MakeEvent) -> None:
    batches = [[make_event(n) for n in range(start, start + 50)] for start in range(0, 400, 10)]
    await asyncio.gather(*(log.record(batch) for batch in batches))
    assert (await log.totals()).requests == 440


async def test_a_period_includes_its_start_and_excludes_its_end(log: UsageLog, make_event: MakeEvent) -> None:
    await log.record([make_event(n, at=float(n)) for n in range(10)])
    assert (await log.totals(since=3.0, until=7.0)).requests == 4
    assert (await log.totals(since=9.0)).requests == 1
    assert (await log.totals(until=0.0)).requests == 0


async def test_organisations_are_told_apart(log: UsageLog, make_event: MakeEvent) -> None:
    await log.record([make_event(n, organisation="a" if n % 3 else "b", units=n) for n in range(9)])
    assert await log.totals(organisation="b") == UsageTotals(requests=3, units=0 + 3 + 6, tokens=3)
    assert (await log.totals(organisation="nobody")) == UsageTotals()


async def test_billable_requests_are_those_that_went_well(log: UsageLog, make_event: MakeEvent) -> None:
    await log.record(
        [
            make_event(1, at=10.0, organisation="a"),
            make_event(2, at=20.0, organisation="a"),
            make_event(3, at=20.0, organisation="b"),
            make_event(4, at=30.0, organisation="b", status="overloaded"),
            make_event(5, at=30.0, organisation="c", status="internal"),
        ]
    )
    assert await log.requests_by_organisation(since=0.0) == {"a": 2, "b": 1}
    assert await log.requests_by_organisation(since=20.0) == {"a": 1, "b": 1}


async def test_text_survives_as_it_is(log: UsageLog, make_event: MakeEvent) -> None:
    name = 'Zoë\'s "GmbH"; 漢字 \n😀\\'
    await log.record([make_event(1, organisation=name)])
    assert await log.requests_by_organisation(since=0.0) == {name: 1}


async def test_a_ledger_that_is_up_answers_a_ping(log: UsageLog) -> None:
    await log.ping()


async def test_events_outlive_the_connection(database_url: str, make_event: MakeEvent) -> None:
    first = open_database(database_url)
    await SqlUsageLog(first).record([make_event(1)])
    await first.close()
    second = open_database(database_url)
    assert await SqlUsageLog(second).record([make_event(1), make_event(2)]) == 1
    await second.close()


async def test_a_database_that_is_down_is_unavailable_and_nothing_is_half_written(
    database_url: str, make_event: MakeEvent
) -> None:
    database = open_database(database_url, busy_timeout_s=0.05)
    log = SqlUsageLog(database)
    await log.record([make_event(1)])
    other = sqlite3.connect(sqlite_path(database_url), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable):
        await log.record([make_event(n) for n in range(2, 100)])
    other.execute("ROLLBACK")
    # One event that breaks a rule takes its whole batch with it.
    other.execute(
        "CREATE TRIGGER refuse BEFORE INSERT ON usage_events WHEN NEW.units = 13 BEGIN SELECT RAISE(ABORT, 'no'); END"
    )
    with pytest.raises(Unavailable, match="no"):
        await log.record([make_event(n, units=n) for n in range(2, 100)])
    other.close()
    assert (await log.totals()).requests == 1
    await database.close()
    for call in (log.record([make_event(2)]), log.totals(), log.requests_by_organisation(since=0.0), log.ping()):
        with pytest.raises(Unavailable):
            await call
