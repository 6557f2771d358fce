"""The usage journal: nothing that was recorded is lost or counted twice, whatever happens to the process or the ledger."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import event
from structlog.testing import CapturingLogger

from phalanx.contract.usage import UsageEvent, UsageTotals
from phalanx.errors import Unavailable
from phalanx.stores.files import journal as journal_module
from phalanx.stores.files.journal import OWNER, FileJournal
from phalanx.stores.files.segment import Segment
from phalanx.stores.journaled import JournaledUsageLog
from phalanx.stores.memory.usage import MemoryUsageLog
from phalanx.stores.sql.database import migrate, open_database
from phalanx.stores.sql.usage import SqlUsageLog

pytestmark = pytest.mark.anyio
MakeEvent = Callable[..., UsageEvent]


async def _nothing() -> None:
    pass


class Ledger(MemoryUsageLog):
    """A ledger that can be down, and remembers what reached it: batches, and how far journals said they had got."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[str]] = []
        self.announced: dict[str, float] = {}
        self.dismissed: list[str] = []
        self.down = False
        self.closed = False
        self.during: Callable[[], Awaitable[object]] = _nothing

    @property
    def events(self) -> dict[str, UsageEvent]:
        return self._events

    async def record(self, events: Sequence[UsageEvent]) -> int:
        await self.ping()
        await self.during()
        self.batches.append([event.id for event in events])
        return await super().record(events)

    async def announce(self, journal: str, complete_until: float) -> None:
        await self.ping()
        self.announced[journal] = complete_until

    async def dismiss(self, journals: Iterable[str]) -> None:
        await self.ping()
        for name in journals:
            self.announced.pop(name, None)
            self.dismissed.append(name)

    async def complete_until(self, *, besides: str = "") -> float:
        return min([self._now(), *(at for name, at in self.announced.items() if name != besides)])

    async def ping(self) -> None:
        await asyncio.sleep(0)
        if self.down:
            raise Unavailable("the ledger is down")

    async def close(self) -> None:
        self.closed = True


class Bench:
    """A ledger, a folder, and journals between them that flush only when told to, unless said otherwise."""

    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger()
        self.folder = folder
        self.log = CapturingLogger()
        self.journals: dict[JournaledUsageLog, FileJournal] = {}

    async def open(self, *, max_bytes: int = 2**30, **settings: Any) -> JournaledUsageLog:
        settings = {"flush_every_s": 1e6, "adopt_every_s": 1e6, **settings}
        files = FileJournal(self.folder, log=self.log, max_bytes=max_bytes)
        journal = JournaledUsageLog(self.ledger, files, log=self.log, **settings)
        await journal.open()
        self.journals[journal] = files
        return journal

    def waiting(self, journal: JournaledUsageLog) -> int:
        """Return how many bytes wait in a journal."""
        return self.journals[journal].waiting_bytes

    def abandon(self, journal: JournaledUsageLog) -> None:
        """Let go of a journal's files as the death of its process would."""
        files = self.journals[journal]
        for segment in [*files._sealed, files._current]:
            if segment is not None:
                segment.release()
        assert files._owner is not None
        os.close(files._owner)

    @property
    def files(self) -> list[str]:
        """The kinds of files there are, without those that say who lives."""
        return sorted(path.suffix for path in self.folder.iterdir() if path.suffix != OWNER)

    @property
    def owners(self) -> int:
        return len(list(self.folder.glob(f"*{OWNER}")))

    @property
    def segment(self) -> Path:
        (path,) = self.folder.glob("*.jsonl")
        return path

    @property
    def said(self) -> list[str]:
        return [call.args[0] for call in self.log.calls]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "data" / "usage")


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so that the journal's own task brings about; fail after five seconds."""
    for _ in range(1_000):
        if condition():
            return
        await asyncio.sleep(0.005)
    pytest.fail("it did not happen within five seconds")


async def test_what_was_recorded_is_on_its_way_and_counted_by_whoever_asks(bench: Bench, make_event: MakeEvent) -> None:
    journal = await bench.open()
    await journal.record([make_event(1), make_event(2)])
    assert bench.ledger.batches == []
    assert bench.waiting(journal) > 0
    assert (await journal.totals()).requests == 2
    await journal.record([make_event(3)])
    assert await journal.requests_by_organisation(since=0.0) == {"ann@example.org": 3}
    assert (bench.waiting(journal), bench.files) == (0, [])
    await journal.close()


async def test_a_journal_that_bills_nothing_leaves_no_file(bench: Bench) -> None:
    journal = await bench.open()
    assert await journal.record([]) == 0
    await journal.close()
    assert bench.files == []
    assert bench.ledger.closed


async def test_events_are_flushed_after_a_while(bench: Bench, make_event: MakeEvent) -> None:
    journal = await bench.open(flush_every_s=0.01)
    await journal.record([make_event(1)])
    await until(lambda: bench.ledger.batches == [[make_event(1).id]])
    await journal.close()


async def test_a_full_batch_is_flushed_at_once_and_sorted(bench: Bench, make_event: MakeEvent) -> None:
    journal = await bench.open(flush_events=10)
    for n in (5, 3, 9, 1, 7, 2, 8, 4, 6, 0):
        await journal.record([make_event(n)])
    await until(lambda: len(bench.ledger.events) == 10)
    assert bench.ledger.batches == [[make_event(n).id for n in range(10)]]
    await journal.close()


async def test_large_journals_are_flushed_in_batches(bench: Bench, make_event: MakeEvent) -> None:
    journal = await bench.open(flush_events=10_000)
    await journal.record([make_event(n) for n in range(1_100)])
    await journal.flush()
    assert [len(batch) for batch in bench.ledger.batches] == [500, 500, 100]
    await journal.close()


async def test_what_comes_during_a_flush_is_kept_for_the_next(bench: Bench, make_event: MakeEvent) -> None:
    journal = await bench.open()
    await journal.record([make_event(1)])
    late = iter(range(2, 100))
    bench.ledger.during = lambda: journal.record([make_event(next(late))])
    await journal.flush()
    assert set(bench.ledger.events) == {make_event(1).id}
    bench.ledger.during = _nothing
    await journal.close()
    assert set(bench.ledger.events) == {make_event(1).id, make_event(2).id}


async def test_flushes_at_once_count_every_event_once(bench: Bench, make_event: MakeEvent) -> None:
    journal = await bench.open(flush_events=7)

    async def caller(start: int) -> None:
        for n in range(start, start + 50):
            await journal.record([make_event(n)])
            if n % 5 == 0:
                await journal.totals()

    await asyncio.gather(*(caller(1_000 * k) for k in range(8)))
    await journal.close()
    flushed = [event for batch in bench.ledger.batches for event in batch]
    assert len(flushed) == len(set(flushed)) == 400


async def test_events_wait_while_the_ledger_is_down_and_arrive_when_it_is_back(
    bench: Bench, make_event: MakeEvent
) -> None:
    journal = await bench.open(flush_every_s=0.01, flush_events=5)
    bench.ledger.down = True
    for n in range(20):
        await journal.record([make_event(n)])
    await until(lambda: "usage waits in the journal" in bench.said)
    for n in range(20, 25):
        await journal.record([make_event(n)])
        with pytest.raises(Unavailable):
            await journal.totals()
    # However often the flush failed, there is one file that waits and one that grows: each holds a descriptor.
    assert len(bench.files) == 2
    bench.ledger.down = False
    await until(lambda: len(bench.ledger.events) == 25)
    await until(lambda: "usage reaches the ledger again" in bench.said)
    assert bench.said == ["usage waits in the journal", "usage reaches the ledger again"]
    await journal.close()


async def test_a_surprise_in_the_ledger_does_not_end_the_flushing(bench: Bench, make_event: MakeEvent) -> None:
    journal = await bench.open(flush_every_s=0.01)

    async def surprise() -> None:
        bench.ledger.during = _nothing
        raise OverflowError("int too large")

    bench.ledger.during = surprise
    await journal.record([make_event(1)])
    await until(lambda: len(bench.ledger.events) == 1)
    await journal.close()


async def test_what_cannot_be_flushed_at_the_end_is_adopted_by_the_next(bench: Bench, make_event: MakeEvent) -> None:
    first = await bench.open()
    await first.record([make_event(1)])
    bench.ledger.down = True
    await first.close()
    assert bench.files == [".jsonl"]
    bench.ledger.down = False
    second = await bench.open()
    assert bench.waiting(second) > 0
    await second.close()
    assert (list(bench.ledger.events), bench.files) == ([make_event(1).id], [])


async def test_a_survivor_adopts_the_files_of_the_dead_but_not_of_the_living(
    bench: Bench, make_event: MakeEvent
) -> None:
    survivor = await bench.open(flush_every_s=0.01, adopt_every_s=0.01)
    living, dead = await bench.open(), await bench.open()
    await living.record([make_event(1)])
    await dead.record([make_event(2)])
    await asyncio.sleep(0.05)
    assert bench.ledger.events == {}
    bench.abandon(dead)
    await until(lambda: set(bench.ledger.events) == {make_event(2).id})
    assert bench.files == [".jsonl"]
    await living.close()
    await survivor.close()
    assert bench.files == []
    assert set(bench.ledger.events) == {make_event(1).id, make_event(2).id}


async def test_the_dead_are_dismissed_once_all_they_left_is_in_the_ledger(bench: Bench, make_event: MakeEvent) -> None:
    dead, idle = await bench.open(), await bench.open()
    await dead.record([make_event(1)])
    bench.ledger.announced = {files.name: 1_000.0 for files in bench.journals.values()}
    living = await bench.open(flush_every_s=0.01)
    bench.abandon(dead)
    bench.abandon(idle)
    names = set(bench.ledger.announced)
    bench.ledger.down = True
    survivor = await bench.open(flush_every_s=0.01)
    await asyncio.sleep(0.05)
    assert (bench.owners, bench.ledger.dismissed) == (4, [])
    bench.ledger.down = False
    await until(lambda: set(bench.ledger.dismissed) == names)
    assert set(bench.ledger.events) == {make_event(1).id}
    await until(lambda: bench.owners == 2)
    await living.close()
    await survivor.close()
    assert bench.owners == 0


async def test_the_ledger_is_complete_up_to_the_oldest_open_call(bench: Bench, make_event: MakeEvent) -> None:
    oldest: list[float] = []
    journal = await bench.open(now=lambda: 5_000.0, oldest_open=lambda: min(oldest, default=None))
    assert await journal.complete_until() == 5_000.0
    oldest += [4_000.0, 3_000.0]
    await journal.flush()
    assert await journal.complete_until() == 3_000.0
    bench.ledger.announced["another"] = 2_000.0
    assert await journal.complete_until() == 2_000.0
    oldest.clear()
    bench.ledger.announced.clear()
    bench.ledger.down = True
    await journal.record([make_event(1)])
    with pytest.raises(Unavailable):
        await journal.flush()
    assert await journal.complete_until() == 3_000.0
    bench.ledger.down = False
    await journal.flush()
    assert await journal.complete_until() == 5_000.0
    await journal.close()


async def test_a_journal_says_how_far_it_got_when_it_moved_and_is_silent_when_idle(
    bench: Bench, make_event: MakeEvent
) -> None:
    journal = await bench.open(flush_every_s=0.01)
    await asyncio.sleep(0.05)
    assert bench.ledger.announced == {}
    await journal.record([make_event(1)])
    await until(lambda: len(bench.ledger.announced) == 1)
    said = dict(bench.ledger.announced)
    await asyncio.sleep(0.05)
    assert bench.ledger.announced == said
    await journal.close()
    assert bench.ledger.announced == {}


async def test_a_journal_of_a_shared_ledger_is_announced_before_its_first_event(bench: Bench) -> None:
    bench.ledger.is_shared = True
    bench.ledger.down = True
    with pytest.raises(Unavailable):
        await bench.open()
    assert bench.owners == 0
    bench.ledger.down = False
    journal = await bench.open(flush_every_s=0.01)
    (first,) = bench.ledger.announced.values()
    await until(lambda: [at > first for at in bench.ledger.announced.values()] == [True])
    await journal.close()
    assert bench.ledger.announced == {}


async def test_lines_of_an_older_version_are_read(bench: Bench, make_event: MakeEvent) -> None:
    await (await bench.open()).close()
    old = {"id": make_event(1).id, "at": 1.0, "organisation": "a", "key_id": "k", "operation": "o", "unit": "token",
           "units": 3, "tokens": 3, "cached": 0, "model": "m", "status": "ok", "latency_ms": 0.5}  # fmt: skip
    (bench.folder / "000000000000002a-17.jsonl").write_bytes(msgspec.json.encode(old) + b"\n")
    journal = await bench.open()
    assert await journal.totals() == UsageTotals(requests=1, billed=1, units=3, tokens=3)
    await journal.close()
    assert (bench.files, bench.said) == ([], [])


async def test_a_stop_while_the_ledger_is_down_does_not_wait_for_the_next_flush(
    bench: Bench, make_event: MakeEvent
) -> None:
    journal = await bench.open(flush_every_s=0.01)
    bench.ledger.down = True
    await journal.record([make_event(1)])
    await until(lambda: "usage waits in the journal" in bench.said)
    journal._flush_every_s = 1e6
    await asyncio.sleep(0.05)
    async with asyncio.timeout(1.0):
        await journal.close()
    assert (bench.files, bench.owners) == ([".jsonl"], 1)


async def test_death_between_commit_and_removal_repeats_events_that_the_ledger_knows(
    bench: Bench, make_event: MakeEvent, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await bench.open()
    await first.record([make_event(1)])
    with monkeypatch.context() as patch:
        patch.setattr(Segment, "remove", _killed)
        with pytest.raises(OSError, match="killed"):
            await first.flush()
    bench.abandon(first)
    second = await bench.open()
    await second.close()
    assert bench.ledger.batches == [[make_event(1).id]] * 2
    assert len(bench.ledger.events) == 1


def _killed(_segment: Segment) -> None:
    raise OSError("killed here")


async def test_a_torn_last_line_is_dropped_and_the_rest_is_kept(bench: Bench, make_event: MakeEvent) -> None:
    first = await bench.open()
    await first.record([make_event(1), make_event(2)])
    bench.abandon(first)
    file = bench.segment
    os.truncate(file, file.stat().st_size - 10)
    await (await bench.open()).close()
    assert list(bench.ledger.events) == [make_event(1).id]
    assert (bench.files, bench.said) == ([], [])


@pytest.mark.parametrize("damage", [b"\x00\x00\x00\n", b'{"id": 5}\n', b"\xff\xfe\n", b"[]\n"])
async def test_a_damaged_line_is_reported_and_its_file_set_aside(
    bench: Bench, make_event: MakeEvent, damage: bytes
) -> None:
    first = await bench.open()
    await first.record([make_event(1)])
    bench.abandon(first)
    file = bench.segment
    content = file.read_bytes()
    file.write_bytes(damage + content + damage)
    await (await bench.open()).close()
    assert list(bench.ledger.events) == [make_event(1).id]
    assert (bench.files, bench.said) == ([".damaged"], ["usage journal damaged"])
    assert bench.log.calls[0].kwargs["lines"] == 2


async def test_a_file_deleted_under_a_living_process_loses_nothing(bench: Bench, make_event: MakeEvent) -> None:
    journal = await bench.open()
    await journal.record([make_event(1)])
    for file in bench.folder.iterdir():
        file.unlink()
    await journal.record([make_event(2)])
    await journal.close()
    assert set(bench.ledger.events) == {make_event(1).id, make_event(2).id}


async def test_a_full_journal_refuses_until_the_ledger_is_back(bench: Bench, make_event: MakeEvent) -> None:
    journal = await bench.open(max_bytes=1_000)
    bench.ledger.down = True
    while bench.waiting(journal) < 1_000:
        await journal.record([make_event(bench.waiting(journal))])
    assert bench.waiting(journal) < 1_500
    with pytest.raises(Unavailable, match="1000 are allowed"):
        await journal.record([make_event(1)])
    bench.ledger.down = False
    await journal.flush()
    await journal.record([make_event(2_000)])
    await journal.close()
    assert make_event(2_000).id in bench.ledger.events


async def test_long_outages_are_spread_over_files_of_bounded_size(
    bench: Bench, make_event: MakeEvent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "SEGMENT_BYTES", 2_000)
    journal = await bench.open(flush_events=1)
    bench.ledger.down = True
    for n in range(50):
        await journal.record([make_event(n)])
    sizes = [file.stat().st_size for file in bench.folder.glob("*.jsonl")]
    assert len(sizes) > 3
    assert max(sizes) < 2_500
    bench.ledger.down = False
    await journal.flush()
    assert len(bench.ledger.events) == 50
    await journal.close()


@pytest.mark.parametrize("room", [0, 40, 400])
async def test_a_full_disk_refuses_the_event_and_leaves_no_part_of_it(
    bench: Bench, make_event: MakeEvent, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    journal = await bench.open()
    await journal.record([make_event(1)])
    before = bench.waiting(journal)
    write = os.write

    def write_what_fits(descriptor: int, content: bytes) -> int:
        if room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, content[:room])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write_what_fits)
        with pytest.raises(Unavailable, match="No space left"):
            await journal.record([make_event(2), make_event(3)])
    assert bench.waiting(journal) == before
    await journal.record([make_event(4)])
    await journal.close()
    assert set(bench.ledger.events) == {make_event(1).id, make_event(4).id}
    assert bench.said == []


@pytest.mark.parametrize("kind", ["full", "read-only"])
async def test_a_database_that_takes_nothing_loses_nothing(tmp_path: Path, make_event: MakeEvent, kind: str) -> None:
    url = f"sqlite:///{tmp_path / 'phalanx.db'}"
    migrate(url)
    database, log = open_database(url), CapturingLogger()
    statement = {"full": "PRAGMA max_page_count = 1", "read-only": "PRAGMA query_only = ON"}[kind]

    def spoil(connection: Any, _record: object, _proxy: object) -> None:
        connection.cursor().execute(statement)

    engine = database._engine.sync_engine
    event.listen(engine, "checkout", spoil)
    journal = JournaledUsageLog(SqlUsageLog(database), FileJournal(tmp_path / "usage", log=log), log=log)
    await journal.open()
    for n in range(100):
        await journal.record([make_event(n, organisation=f"{n}" * 500)])
    with pytest.raises(Unavailable, match={"full": "full", "read-only": "readonly"}[kind]):
        await journal.flush()
    event.remove(engine, "checkout", spoil)
    statement = {"full": "PRAGMA max_page_count = 1000000", "read-only": "PRAGMA query_only = OFF"}[kind]
    event.listen(engine, "checkout", spoil)
    assert (await journal.totals()).requests == 100
    await journal.close()
    await database.close()


async def test_a_read_only_folder_is_unavailable(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(Unavailable, match="Read-only file system; see DATA_DIR"):
        await bench.open()


async def test_a_folder_that_cannot_be_is_unavailable(bench: Bench) -> None:
    bench.folder.parent.write_text("in the way")
    with pytest.raises(Unavailable, match="DATA_DIR"):
        await bench.open()


async def test_a_journal_that_is_not_open_takes_nothing(bench: Bench, make_event: MakeEvent) -> None:
    journal = JournaledUsageLog(bench.ledger, FileJournal(bench.folder, log=bench.log), log=bench.log)
    with pytest.raises(Unavailable, match="not open"):
        await journal.record([make_event(1)])
    await journal.close()
    opened = await bench.open()
    await opened.close()
    await opened.close()
    with pytest.raises(Unavailable, match="not open"):
        await opened.record([make_event(1)])


def test_a_file_taken_by_a_survivor_before_its_maker_held_it_is_replaced(
    tmp_path: Path, make_event: MakeEvent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The survivor is put between the making of the file and the lock, where it can come in a bad moment."""
    opening = os.open
    rivals: list[Segment | None] = []

    def open_slowly(path: Path, flags: int, mode: int = 0o777) -> int:
        descriptor = opening(path, flags, mode)
        if flags & os.O_CREAT and len(rivals) < 2:
            rivals.append(Segment.adopt(path))
            if len(rivals) == 2:
                assert rivals[1] is not None
                rivals[1].remove()
        return descriptor

    monkeypatch.setattr(os, "open", open_slowly)
    segment = Segment.create(tmp_path, "1-me")
    segment.append([make_event(1)])
    assert len(rivals) == 2
    assert segment.path.exists()
    assert [event.id for batch in segment.batches(10) for event in batch] == [make_event(1).id]
    assert rivals[0] is not None
    rivals[0].release()
    segment.remove()


WORKER = """
import asyncio, sys
from pathlib import Path
from phalanx.contract.usage import UsageEvent, UsageTotals
from phalanx.ids import Uuid7
from phalanx.stores.memory.clock import SystemClock
from phalanx.stores.sql.database import open_database
from phalanx.stores.files.journal import FileJournal
from phalanx.stores.journaled import JournaledUsageLog
from phalanx.stores.sql.usage import SqlUsageLog
from phalanx.telemetry import configure_logs

async def main(folder):
    new, database = Uuid7(SystemClock()), open_database(f"sqlite:///{folder}/phalanx.db")
    log = configure_logs()
    journal = JournaledUsageLog(SqlUsageLog(database), FileJournal(folder / "usage", log=log), log=log,
                                flush_every_s=0.01, flush_events=50, adopt_every_s=0.05)
    await journal.open()
    while True:
        event = UsageEvent(id=new(), at=0.0, organisation="a", key_id="k", operation="o", unit="u", units=1, tokens=1,
                           cached=0, model="m", status="ok", latency_ms=1.0)
        await journal.record([event])
        sys.stdout.write(event.id + "\\n")
        sys.stdout.flush()
        await asyncio.sleep(0)

asyncio.run(main(Path(sys.argv[1])))
"""


def test_kill_9_under_load_loses_no_answered_event_and_doubles_none(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'phalanx.db'}"
    migrate(url)
    answered: list[str] = []
    for after in (400, 777):
        workers = [
            subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        for worker in workers:
            assert worker.stdout is not None
            answered += [worker.stdout.readline().strip() for _ in range(after)]
            worker.send_signal(signal.SIGKILL)
            answered += [line.strip() for line in worker.stdout if line.endswith("\n")]
            worker.stdout.close()
            worker.wait()
    found, counted = asyncio.run(_whole_ledger(url, tmp_path / "usage"))
    assert len(answered) == len(set(answered)) >= 2 * (400 + 777)
    assert not set(answered) - found
    # Of each of the four workers, one event may have been recorded and not yet answered.
    assert len(found) == counted <= len(answered) + 4
    assert not list((tmp_path / "usage").iterdir())


async def _whole_ledger(url: str, folder: Path) -> tuple[set[str], int]:
    """Return the ids in the ledger and their number, once what the dead left is in it."""
    database = open_database(url)
    log = CapturingLogger()
    journal = JournaledUsageLog(SqlUsageLog(database), FileJournal(folder, log=log), log=log)
    await journal.open()
    counted = (await journal.totals()).requests
    async with database.transaction() as connection:
        found = {row[0] for row in await connection.exec_driver_sql("SELECT id FROM usage_events")}
    await journal.close()
    await database.close()
    return found, counted
