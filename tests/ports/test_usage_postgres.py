"""The ledger on PostgreSQL: its partitions, and what it does when the server is killed under it."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from structlog.testing import CapturingLogger

from phalanx.contract.usage import UsageEvent
from phalanx.errors import Unavailable
from phalanx.stores.days import id_bounds
from phalanx.stores.files.journal import FileJournal
from phalanx.stores.journaled import JournaledUsageLog
from phalanx.stores.sql.database import Database, migrate, open_database
from phalanx.stores.sql.usage import SqlUsageLog
from servers import PostgresServer

pytestmark = pytest.mark.anyio
MakeEvent = Callable[..., UsageEvent]
OpenLog = Callable[..., SqlUsageLog]

# The server's own order would ignore the dashes in ids and put letters of both cases side by side.
SPEAKS_ENGLISH = "TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'"
NOW = 1_780_300_800.0
TODAY, TOMORROW = "20260601", "20260602"
_numbers = itertools.count(1)


def id_on(day: str, n: int) -> str:
    return f"{id_bounds(day)[0]}-7000-8000-{n:012x}"


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    name = f"partitioned_{next(_numbers)}"
    postgres.execute(f"CREATE DATABASE {name} {SPEAKS_ENGLISH}")
    migrate(postgres.url(name))
    return postgres.url(name)


class Ask:
    """Asks the server past the adapter."""

    def __init__(self, server: PostgresServer, url: str) -> None:
        self._server = server
        self._name = urlsplit(url).path[1:]

    def __call__(self, statement: str) -> list[str]:
        return self._server.execute(statement, self._name).splitlines()

    @property
    def partitions(self) -> list[str]:
        children = self("SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'usage_events'::regclass")
        return sorted(name.removeprefix("usage_events_") for name in children)


@pytest.fixture
def ask(postgres: PostgresServer, url: str) -> Ask:
    return Ask(postgres, url)


@pytest.fixture
async def open_log(url: str) -> AsyncIterator[OpenLog]:
    """Open the ledger as one more worker would."""
    opened: list[Database] = []

    def open_one(now: Callable[[], float] = lambda: NOW) -> SqlUsageLog:
        opened.append(open_database(url))
        return SqlUsageLog(opened[-1], now=now)

    yield open_one
    for database in opened:
        await database.close()


async def test_each_day_inside_the_ids_has_a_partition_and_those_to_come_are_made_ahead(
    open_log: OpenLog, ask: Ask, make_event: MakeEvent
) -> None:
    log = open_log()
    low, high = id_bounds("2026-03-14")
    last = f"{int(high.replace('-', ''), 16) - 1:012x}"
    await log.record(
        [
            make_event(1, id=f"{low}-7000-8000-000000000000"),
            make_event(2, id=f"{last[:8]}-{last[8:]}-7fff-bfff-ffffffffffff"),
            make_event(3, id=f"{high}-7000-8000-000000000000"),
        ]
    )
    assert ask.partitions == ["20260314", "20260315", TODAY, TOMORROW, "default"]
    assert ask("SELECT count(*) FROM usage_events_20260314") == ["2"]
    assert ask("SELECT count(*) FROM usage_events_20260315") == ["1"]
    plan = "\n".join(ask(f"EXPLAIN SELECT 1 FROM usage_events WHERE id = '{low}-7000-8000-000000000000'"))
    assert "usage_events_20260314" in plan
    assert "usage_events_20260315" not in plan


async def test_odd_ids_and_days_of_wrong_clocks_wait_in_the_default_partition(
    open_log: OpenLog, ask: Ask, make_event: MakeEvent
) -> None:
    log = open_log()
    ids = ["job 17", id_on("2031-01-01", 1), id_on("1999-01-01", 2), "ZZZ", "zzz"]
    await log.record([make_event(n, id=name, at=0.0) for n, name in enumerate(ids)])
    assert ask.partitions == [TODAY, TOMORROW, "default"]
    assert ask("SELECT count(*) FROM usage_events_default") == ["5"]
    assert await log.record([make_event(n, id=name, at=0.0) for n, name in enumerate(ids)]) == 0


async def test_what_waited_in_the_default_partition_moves_when_its_day_has_come(
    open_log: OpenLog, ask: Ask, make_event: MakeEvent
) -> None:
    log = open_log()
    early = make_event(1, id=id_on("2026-06-20", 1))
    await log.record([early, make_event(2, id="odd")])
    later = open_log(lambda: NOW + 19 * 86_400.0)
    assert await later.record([early, make_event(3, id=id_on("2026-06-20", 3))]) == 1
    assert ask("SELECT count(*) FROM usage_events_20260620") == ["2"]
    assert ask("SELECT id FROM usage_events_default") == ["odd"]
    assert (await log.totals()).requests == 3


async def test_workers_that_need_the_same_partitions_at_once_all_get_on(
    open_log: OpenLog, ask: Ask, make_event: MakeEvent
) -> None:
    logs = [open_log() for _ in range(4)]
    days = [f"2026-03-{day:02}" for day in range(10, 16)]

    async def worker(number: int) -> int:
        events = [make_event(n, id=id_on(days[(n + number) % 6], n)) for n in range(60)]
        return sum([await logs[number].record(events[start : start + 20]) for start in (0, 20, 40)])

    assert sum(await asyncio.gather(*map(worker, range(4)))) == (await logs[0].totals()).requests
    assert len(ask.partitions) == 9
    assert ask("SELECT count(*) FROM usage_events_default") == ["0"]
    for day in days:
        books = await logs[0].books(day)
        assert books.events == books.sums


async def test_days_gone_by_are_dropped_and_a_late_event_of_theirs_still_counts(
    open_log: OpenLog, ask: Ask, make_event: MakeEvent
) -> None:
    log = open_log()
    days = ["2026-03-14", "2026-05-01", "2026-05-02"]
    await log.record([make_event(n, id=id_on(day, n)) for n, day in enumerate(days)])
    await log.record([make_event(9, id="odd", at=1_773_500_000.0), make_event(10, id="odder", at=NOW)])
    assert await log.expire(31) == 1
    assert ask.partitions == ["20260501", "20260502", TODAY, TOMORROW, "default"]
    assert ask("SELECT id FROM usage_events_default") == ["odder"]
    assert await log.record([make_event(20, id=id_on("2026-03-14", 20))]) == 1
    assert (await log.requests_by_organisation(since=0.0)) == {"ann@example.org": 6}
    assert await log.expire(31) == 0
    assert (await log.totals()).requests == 3


async def test_a_deadlock_is_tried_again(open_log: OpenLog, ask: Ask, make_event: MakeEvent) -> None:
    ask(
        "CREATE SEQUENCE tries; CREATE FUNCTION clash() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF nextval('tries') < 3 THEN RAISE EXCEPTION 'clash' USING ERRCODE = '40P01'; END IF; RETURN NEW; END $$; "
        "CREATE TRIGGER clash BEFORE INSERT ON usage_daily FOR EACH STATEMENT EXECUTE FUNCTION clash()"
    )
    log = open_log()
    assert await log.record([make_event(n) for n in range(5)]) == 5
    assert ask("SELECT sum(requests) FROM usage_daily") == ["5"]
    ask("CREATE OR REPLACE FUNCTION clash() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "RAISE EXCEPTION 'clash' USING ERRCODE = '40001'; END $$")  # fmt: skip
    with pytest.raises(Unavailable):
        await log.record([make_event(6)])
    assert (await log.totals()).requests == 5


async def test_a_repair_beside_recorders_leaves_the_books_equal(
    open_log: OpenLog, ask: Ask, make_event: MakeEvent
) -> None:
    logs = [open_log() for _ in range(3)]
    await logs[0].record([make_event(0, id=id_on("2026-03-14", 0))])
    ask("UPDATE usage_daily SET units = 77")

    async def recorder(log: SqlUsageLog, first: int) -> None:
        for n in range(first, first + 40):
            await log.record([make_event(n, id=id_on("2026-03-14", n))])

    async def repairer() -> None:
        for _ in range(20):
            await logs[2].repair("2026-03-14")

    await asyncio.gather(recorder(logs[0], 1), recorder(logs[1], 100), repairer())
    books = await logs[0].books("2026-03-14")
    assert books.events == books.sums
    assert sum(sums.units for sums in books.sums.values()) == 81


async def test_nothing_is_lost_or_doubled_when_the_server_is_killed_mid_flush(
    postgres: PostgresServer, open_log: OpenLog, ask: Ask, make_event: MakeEvent, tmp_path: Path
) -> None:
    logger = CapturingLogger()
    journals = [
        JournaledUsageLog(open_log(), FileJournal(tmp_path / "usage", log=logger), log=logger, flush_every_s=0.02)
        for _ in range(2)
    ]
    for journal in journals:
        await journal.open()
    stopped = asyncio.Event()
    recorded: list[str] = []

    async def caller(journal: JournaledUsageLog, first: int) -> None:
        for n in itertools.count(first):
            if stopped.is_set():
                return
            event = make_event(n, id=id_on(f"2026-03-{14 + n % 2}", n), operation=f"o{n % 5}")
            await journal.record([event])
            recorded.append(event.id)
            await asyncio.sleep(0.001)

    calls = [asyncio.create_task(caller(journal, 10_000_000 * n)) for n, journal in enumerate(journals)]
    for _ in range(3):
        await asyncio.sleep(0.3)
        await asyncio.to_thread(postgres.kill)
        await asyncio.sleep(0.1)
        await asyncio.to_thread(postgres.start)
    stopped.set()
    await asyncio.gather(*calls)
    await _in_time(journals[0].flush)
    await _in_time(journals[1].flush)
    assert "usage waits in the journal" in [call.args[0] for call in logger.calls]
    assert len(recorded) == len(set(recorded)) > 500
    assert set(ask("SELECT id FROM usage_events")) == set(recorded)
    for day in ("2026-03-14", "2026-03-15"):
        books = await journals[0].books(day)
        assert books.events == books.sums
    for journal in journals:
        await journal.close()
    assert not list((tmp_path / "usage").iterdir())
    assert ask("SELECT count(*) FROM usage_writers") == ["0"]


async def _in_time(step: Callable[[], Awaitable[None]]) -> None:
    for _ in range(100):
        with suppress(Unavailable):
            return await step()
        await asyncio.sleep(0.1)
    pytest.fail("the ledger did not come back")


async def test_the_ledger_is_not_complete_until_the_journal_of_a_dead_worker_is_adopted(
    open_log: OpenLog, make_event: MakeEvent, tmp_path: Path
) -> None:
    logger, instants = CapturingLogger(), [NOW]

    def now() -> float:
        return instants[-1]

    def journaled(folder: str) -> tuple[JournaledUsageLog, FileJournal]:
        files = FileJournal(tmp_path / folder, log=logger)
        return JournaledUsageLog(open_log(now), files, log=logger, flush_every_s=1e6, now=now), files

    dead, left = journaled("one machine")
    far, _ = journaled("another")
    await dead.open()
    await far.open()
    await dead.record([make_event(1)])
    assert left._current is not None
    assert left._owner is not None
    left._current.release()
    os.close(left._owner)
    instants.append(NOW + 100.0)
    await far.flush()
    assert await far.complete_until() == NOW
    survivor, _ = journaled("one machine")
    await survivor.open()
    await survivor._move_on()
    await far.flush()
    assert await far.complete_until() == NOW + 100.0
    assert (await far.totals()).requests == 1
    await survivor.close()
    await far.close()
    dead._task.cancel()  # type: ignore[union-attr]
