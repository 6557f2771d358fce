"""What every `UsageLedger` does, the ones behind a journal too."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

from phalanx.contract.usage import UsageEvent, UsageRow, UsageTotals
from phalanx.errors import Unavailable
from phalanx.ports import SumKey, UsageLedger, UsageQuery
from phalanx.stores.days import id_bounds
from phalanx.stores.files.journal import FileJournal
from phalanx.stores.journaled import Journal, JournaledUsageLog
from phalanx.stores.memory.usage import MemoryUsageLog
from phalanx.stores.redis.client import open_redis
from phalanx.stores.redis.journal import RedisJournal
from phalanx.stores.sql.database import Database, open_database
from phalanx.stores.sql.sqlite import sqlite_path
from phalanx.stores.sql.usage import LOST_AFTER_S, SqlUsageLog
from servers import RedisServer

pytestmark = pytest.mark.anyio
MakeEvent = Callable[..., UsageEvent]

DAY = "2026-03-14"
TODAY = "2026-06-01"
NOW = 1_780_300_800.0


def id_on(day: str, n: int) -> str:
    """Return the id of event `n` of a day."""
    return f"{id_bounds(day)[0]}-7000-8000-{n:012x}"


@pytest.fixture(params=["memory", "sqlite", "postgres", "files", "redis"])
async def log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[UsageLedger]:
    if request.param == "memory":
        yield MemoryUsageLog(now=lambda: NOW)
        return
    fixture = "postgres_url" if request.param == "postgres" else "database_url"
    database = open_database(request.getfixturevalue(fixture))
    ledger, logger = SqlUsageLog(database, now=lambda: NOW), structlog.get_logger()
    if request.param in ("sqlite", "postgres"):
        yield ledger
    elif request.param == "files":
        async with journaled(ledger, FileJournal(tmp_path / "usage", log=logger)) as log:
            yield log
    else:
        server: RedisServer = request.getfixturevalue("redis_server")
        redis = open_redis(server.url.removesuffix("0") + "5", reply_timeout_s=2.0)
        await redis.flushdb()
        async with journaled(ledger, RedisJournal(redis, log=logger)) as log:
            yield log
        await redis.aclose()
    await database.close()


@asynccontextmanager
async def journaled(ledger: SqlUsageLog, journal: Journal) -> AsyncIterator[JournaledUsageLog]:
    log = JournaledUsageLog(ledger, journal, log=structlog.get_logger(), now=lambda: NOW)
    await log.open()
    yield log
    await log.close()


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue("database_url" if request.param == "sqlite" else "postgres_url"))


async def test_nothing_recorded_sums_to_nothing(log: UsageLedger) -> None:
    assert await log.totals() == UsageTotals()
    assert await log.requests_by_organisation(since=0.0) == {}
    assert await log.record([]) == 0
    assert await log.report(UsageQuery("0001-01-01", "9999-12-31", None, "day")) == []
    assert await log.days() == []
    assert await log.expire(30) == 0


async def test_events_are_summed(log: UsageLedger, make_event: MakeEvent) -> None:
    events = [
        make_event(1, units=10, tokens=11, cached=1),
        make_event(2, units=20, tokens=22, cached=0, status="overloaded"),
        make_event(3, units=2**40, tokens=33, cached=2),
    ]
    assert await log.record(events) == 3
    assert await log.totals() == UsageTotals(requests=3, billed=2, units=30 + 2**40, tokens=66, cached=3, errors=1)


async def test_an_event_counts_once_however_often_it_comes(log: UsageLedger, make_event: MakeEvent) -> None:
    await log.record([make_event(1), make_event(2), make_event(1, units=7)])
    await log.record([make_event(2, units=99, status="internal"), make_event(3)])
    once = UsageTotals(requests=3, billed=3, units=3, tokens=3)
    assert await log.totals() == once
    (day,) = await log.days()
    books = await log.books(day)
    assert list(books.events.values()) == list(books.sums.values()) == [once]


@pytest.mark.parametrize("adapter", ["memory", "sqlite", "postgres"])
async def test_the_number_of_new_events_is_told(
    adapter: str, request: pytest.FixtureRequest, make_event: MakeEvent
) -> None:
    log: UsageLedger = MemoryUsageLog()
    database: Database | None = None
    if adapter != "memory":
        database = open_database(request.getfixturevalue("postgres_url" if adapter == "postgres" else "database_url"))
        log = SqlUsageLog(database)
    assert await log.record([make_event(n) for n in range(700)]) == 700
    assert await log.record([make_event(n) for n in range(690, 710)]) == 10
    assert await log.record([make_event(9_999), make_event(0), make_event(9_999)]) == 1
    assert await log.record([make_event(0)]) == 0
    if database is not None:
        await database.close()


async def test_overlapping_batches_at_once_count_every_event_once(log: UsageLedger, make_event: MakeEvent) -> None:
    batches = [[make_event(n) for n in range(start, start + 50)] for start in range(0, 400, 10)]
    await asyncio.gather(*(log.record(batch) for batch in batches))
    assert (await log.totals()).requests == 440


async def test_a_period_includes_its_start_and_excludes_its_end(log: UsageLedger, make_event: MakeEvent) -> None:
    await log.record([make_event(n, at=float(n)) for n in range(10)])
    assert (await log.totals(since=3.0, until=7.0)).requests == 4
    assert (await log.totals(since=9.0)).requests == 1
    assert (await log.totals(until=0.0)).requests == 0


async def test_organisations_are_told_apart(log: UsageLedger, make_event: MakeEvent) -> None:
    await log.record([make_event(n, organisation="a" if n % 3 else "b", units=n) for n in range(9)])
    assert await log.totals(organisation="b") == UsageTotals(requests=3, billed=3, units=0 + 3 + 6, tokens=3)
    assert (await log.totals(organisation="nobody")) == UsageTotals()


async def test_the_event_says_whether_it_is_billed_and_an_old_one_by_its_status(
    log: UsageLedger, make_event: MakeEvent
) -> None:
    await log.record(
        [
            make_event(1, id=id_on(DAY, 1), organisation="a"),
            make_event(2, id=id_on("2026-03-15", 2), organisation="a", billed=True),
            make_event(3, id=id_on("2026-03-15", 3), organisation="b", billed=True, status="cancelled"),
            make_event(4, id=id_on("2026-03-16", 4), organisation="b", status="overloaded"),
            make_event(5, id=id_on("2026-03-16", 5), organisation="c", billed=False),
        ]
    )
    assert await log.requests_by_organisation(since=0.0) == {"a": 2, "b": 1}
    # 2026-03-15, midnight.
    assert await log.requests_by_organisation(since=1_773_532_800.0) == {"a": 1, "b": 1}
    assert (await log.totals()).billed == 3
    (row,) = await log.report(UsageQuery("2026-03-16", "2026-03-16", None, "day"))
    assert (row.requests, row.billed, row.errors) == (2, 0, 1)


async def test_an_event_counts_on_the_day_inside_its_id(log: UsageLedger, make_event: MakeEvent) -> None:
    low, high = id_bounds(DAY)
    last = f"{int(high.replace('-', ''), 16) - 1:012x}"
    await log.record(
        [
            make_event(1, id=f"{low}-7000-8000-000000000000", at=0.0),
            make_event(2, id=f"{last[:8]}-{last[8:]}-7fff-bfff-ffffffffffff", at=NOW),
            make_event(3, id=f"{high}-7000-8000-000000000000", at=0.0),
        ]
    )
    rows = await log.report(UsageQuery("0001-01-01", "9999-12-31", None, "day"))
    assert [(row.group, row.requests) for row in rows] == [(DAY, 2), ("2026-03-15", 1)]


@pytest.mark.parametrize("odd", ["job 17", "", "zzzz", "019A6F0E-5C1B-7000-8000-000000000001", "ffffffff-ffff-7", "漢"])
async def test_an_odd_id_counts_once_on_the_day_of_its_instant(
    log: UsageLedger, make_event: MakeEvent, odd: str
) -> None:
    event = make_event(1, id=odd, at=1_773_500_000.0)
    await log.record([event, make_event(2, id=id_on(DAY, 2))])
    await log.record([event])
    rows = await log.report(UsageQuery("0001-01-01", "9999-12-31", None, "day"))
    on = "9999-12-31" if odd.startswith("ffffffff") else DAY
    assert sum(row.requests for row in rows) == 2
    assert on in {row.group for row in rows}
    for day in await log.days():
        books = await log.books(day)
        assert books.events == books.sums


async def test_reports_group_by_day_key_operation_and_model(log: UsageLedger, make_event: MakeEvent) -> None:
    keys, operations, models = ("k2", "K1", ""), ("text.embed", "chat"), ("é", "z")
    events = [
        make_event(
            n, id=id_on(f"2026-03-{10 + n % 4}", n), key_id=keys[n % 3], operation=operations[n % 2], units=n,
            model=models[n % 5 == 0], organisation="a" if n < 20 else "b", cached=n % 2,
            status="ok" if n % 7 else "internal",
        )
        for n in range(24)
    ]  # fmt: skip
    await log.record(events)

    async def groups(by: Any, organisation: str | None = None) -> list[tuple[str, int]]:
        rows = await log.report(UsageQuery("2026-03-11", "2026-03-12", organisation, by))
        return [(row.group, row.requests) for row in rows]

    assert await groups("day") == [("2026-03-11", 6), ("2026-03-12", 6)]
    assert await groups("key") == [("", 4), ("K1", 4), ("k2", 4)]
    assert await groups("operation") == [("chat", 6), ("text.embed", 6)]
    assert await groups("model") == [("z", 2), ("é", 10)]
    assert await groups("day", "b") == [("2026-03-11", 1), ("2026-03-12", 1)]
    assert await groups("day", "nobody") == []
    (row,) = await log.report(UsageQuery("2026-03-11", "2026-03-11", "a", "day"))
    of_day = [event for event in events[:20] if int(event.id[-4:], 16) % 4 == 1]
    assert row == UsageRow(
        group="2026-03-11", requests=5, billed=5 - sum(event.status != "ok" for event in of_day),
        units=sum(event.units for event in of_day), tokens=5, cached=5,
        errors=sum(event.status != "ok" for event in of_day),
    )  # fmt: skip


@pytest.mark.parametrize("name", ['Zoë\'s "GmbH"; 漢字 \n😀\\', "\\u0000", "\\\\u0000", "a\tb"])
async def test_text_survives_as_it_is(log: UsageLedger, make_event: MakeEvent, name: str) -> None:
    await log.record([make_event(1, organisation=name)])
    assert await log.requests_by_organisation(since=0.0) == {name: 1}


async def test_a_nul_holds_up_nobody(log: UsageLedger, make_event: MakeEvent) -> None:
    await log.record([make_event(1, model="a\0b"), make_event(2)])
    assert (await log.totals()).requests == 2


async def test_books_agree_and_those_that_do_not_are_repaired(log: UsageLedger, make_event: MakeEvent) -> None:
    events = [make_event(n, id=id_on(DAY, n), units=n, operation="ab"[n % 2]) for n in range(10)]
    await log.record([*events, make_event(99, id=id_on("2026-03-15", 99))])
    assert await log.days() == [DAY, "2026-03-15"]
    books = await log.books(DAY)
    key = SumKey("ann@example.org", "key-1", "b", "all-MiniLM-L6-v2")
    assert books.events == books.sums
    assert books.sums[key] == UsageTotals(requests=5, billed=5, units=25, tokens=5)
    await log.repair(DAY)
    assert await log.books(DAY) == books


async def test_events_older_than_a_number_of_days_are_let_go_and_their_sums_stay(
    log: UsageLedger, make_event: MakeEvent
) -> None:
    days = ["2026-01-01", DAY, "2026-05-01", "2026-05-02", TODAY]
    await log.record([make_event(n, id=id_on(day, n)) for n, day in enumerate(days)])
    await log.record([make_event(50, id="odd", at=1_773_500_000.0)])
    every = UsageQuery("2026-01-01", TODAY, None, "day")
    before = await log.report(every)
    assert await log.expire(31) == 2
    assert await log.expire(31) == 0
    assert await log.days() == days[2:]
    assert (await log.totals()).requests in (3, 4)
    assert await log.report(every) == before
    assert await log.expire(0) == 2
    assert await log.days() == [TODAY]


async def test_the_ledger_is_complete_until_now_when_nobody_else_writes(log: UsageLedger) -> None:
    assert await log.complete_until() == NOW


async def test_a_ledger_that_is_up_answers_a_ping(log: UsageLedger) -> None:
    await log.ping()


async def test_events_outlive_the_connection(url: str, make_event: MakeEvent) -> None:
    first = open_database(url)
    await SqlUsageLog(first).record([make_event(1)])
    await first.close()
    second = open_database(url)
    assert await SqlUsageLog(second).record([make_event(1), make_event(2)]) == 1
    await second.close()


async def test_two_workers_with_overlapping_batches_count_every_event_once(url: str, make_event: MakeEvent) -> None:
    databases = [open_database(url), open_database(url)]
    events = [
        make_event(n, id=id_on(f"2026-03-{10 + n % 3}", n), organisation=f"o{n % 7}", operation=f"p{n % 3}")
        for n in range(600)
    ]

    async def worker(database: Database, offset: int) -> int:
        log = SqlUsageLog(database)
        starts = range(offset, 600, 40)
        # Each batch in an order of its own: sorting is the ledger's.
        return sum([await log.record(events[start : start + 120][:: 1 if start % 80 else -1]) for start in starts])

    new = await asyncio.gather(*(worker(database, offset) for database in databases for offset in (0, 20)))
    log = SqlUsageLog(databases[0])
    assert sum(new) == (await log.totals()).requests == 600
    for day in await log.days():
        books = await log.books(day)
        assert books.events == books.sums
    for database in databases:
        await database.close()


async def test_journals_hold_the_watermark_back_until_they_are_dismissed_or_lost(url: str) -> None:
    database, now = open_database(url), [NOW]
    log = SqlUsageLog(database, now=lambda: now[0])
    await log.announce("one", NOW - 10.0)
    await log.announce("two", NOW - 20.0)
    assert await log.complete_until() == NOW - 20.0
    assert await log.complete_until(besides="two") == NOW - 10.0
    await log.announce("two", NOW - 5.0)
    assert await log.complete_until() == NOW - 10.0
    await log.dismiss(["one"])
    assert await log.complete_until() == NOW - 5.0
    now[0] += LOST_AFTER_S + 1.0
    assert await log.complete_until() == now[0]
    await database.close()


async def test_no_day_is_let_go_of_which_a_journal_may_still_hold_events(url: str, make_event: MakeEvent) -> None:
    database = open_database(url)
    log = SqlUsageLog(database, now=lambda: NOW)
    await log.record([make_event(1, id=id_on("2026-05-01", 1)), make_event(2, id=id_on("2026-05-02", 2))])
    # 2026-05-02, noon.
    await log.announce("slow", 1_777_723_200.0)
    assert await log.expire(1) == 1
    assert await log.days() == ["2026-05-02"]
    await log.dismiss(["slow"])
    assert await log.expire(1) == 1
    await database.close()


async def test_a_locked_or_closed_database_is_unavailable_and_nothing_is_half_written(
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
    # One event that breaks a rule takes its whole batch with it, and so does a sum.
    for table, column in (("usage_events", "units"), ("usage_daily", "units")):
        other.execute(
            f"CREATE TRIGGER refuse BEFORE INSERT ON {table} WHEN NEW.{column} > 12 BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
        with pytest.raises(Unavailable, match="no"):
            await log.record([make_event(n, units=n) for n in range(2, 100)])
        other.execute("DROP TRIGGER refuse")
    other.close()
    assert (await log.totals()).requests == 1
    (day,) = await log.days()
    books = await log.books(day)
    assert books.events == books.sums
    await database.close()
    calls: Iterator[Any] = iter(
        (
            log.record([make_event(2)]), log.totals(), log.requests_by_organisation(since=0.0), log.ping(), log.days(),
            log.report(UsageQuery(DAY, DAY, None, "day")), log.books(DAY), log.repair(DAY), log.expire(1),
            log.complete_until(), log.announce("a", 1.0), log.dismiss(["a"]),
        )
    )  # fmt: skip
    for call in calls:
        with pytest.raises(Unavailable):
            await call
