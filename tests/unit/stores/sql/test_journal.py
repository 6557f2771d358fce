"""The usage journal: nothing that was recorded is lost or counted twice, whatever happens to the process or the ledger."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import CapturingLogger

from phalanx.contract.usage import UsageEvent, UsageTotals
from phalanx.errors import Unavailable
from phalanx.stores.sql import journal as journal_module
from phalanx.stores.sql.database import migrate, open_database
from phalanx.stores.sql.journal import JournaledUsageLog
from phalanx.stores.sql.segment import Segment
from phalanx.stores.sql.usage import SqlUsageLog

pytestmark = pytest.mark.anyio
MakeEvent = Callable[..., UsageEvent]


class Ledger:
    """A ledger that can be down, and remembers the batches that reached it."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.events: dict[str, UsageEvent] = {}
        self.down = False
        self.closed = False
        self.during: Callable[[], object] = lambda: None

    async def record(self, events: Sequence[UsageEvent]) -> int:
        await self.ping()
        self.during()
        self.batches.append([event.id for event in events])
        self.events |= {event.id: event for event in events}
        return len(events)

    async def totals(self, *, organisation: str | None = None, since: float = 0.0, until: float = 1e12) -> UsageTotals:
        await self.ping()
        return UsageTotals(requests=len(self.events))

    async def requests_by_organisation(self, *, since: float) -> dict[str, int]:
        await self.ping()
        return {"all": len(self.events)}

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

    async def open(self, **settings: Any) -> JournaledUsageLog:
        settings = {"flush_every_s": 1e6, "adopt_every_s": 1e6, **settings}
        journal = JournaledUsageLog(self.ledger, self.folder, log=self.log, **settings)
        await journal.open()
        return journal

    def abandon(self, journal: JournaledUsageLog) -> None:
        """Let go of a journal's files as the death of its process would."""
        for segment in [*journal._sealed, journal._current]:
            if segment is not None:
                segment.release()

    @property
    def files(self) -> list[str]:
        return sorted(path.suffix for path in self.folder.iterdir())

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
    assert journal.waiting_bytes > 0
    assert (await journal.totals()).requests == 2
    journal.append([make_event(3)])
    assert await journal.requests_by_organisation(since=0.0) == {"all": 3}
    assert (journal.waiting_bytes, bench.files) == (0, [])
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
    journal = await bench.open(flush_events=100)
    await journal.record([make_event(n) for n in range(250)])
    await journal.flush()
    assert [len(batch) for batch in bench.ledger.batches] == [100, 100, 50]
    await journal.close()


async def test_what_comes_during_a_flush_is_kept_for_the_next(bench: Bench, make_event: MakeEvent) -> None:
    journal = await bench.open()
    await journal.record([make_event(1)])
    late = iter(range(2, 100))
    bench.ledger.during = lambda: journal.append([make_event(next(late))])
    await journal.flush()
    assert set(bench.ledger.events) == {make_event(1).id}
    bench.ledger.during = lambda: None
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

    def surprise() -> None:
        bench.ledger.during = lambda: None
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
    assert second.waiting_bytes > 0
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
    (file,) = bench.folder.iterdir()
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
    (file,) = bench.folder.iterdir()
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
    while journal.waiting_bytes < 1_000:
        await journal.record([make_event(journal.waiting_bytes)])
    assert journal.waiting_bytes < 1_500
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
    sizes = [file.stat().st_size for file in bench.folder.iterdir()]
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
    before = journal.waiting_bytes
    write = os.write

    def write_what_fits(descriptor: int, content: bytes) -> int:
        if room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, content[:room])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write_what_fits)
        with pytest.raises(Unavailable, match="No space left"):
            await journal.record([make_event(2), make_event(3)])
    assert journal.waiting_bytes == before
    await journal.record([make_event(4)])
    await journal.close()
    assert set(bench.ledger.events) == {make_event(1).id, make_event(4).id}
    assert bench.said == []


async def test_a_folder_that_cannot_be_is_unavailable(bench: Bench) -> None:
    bench.folder.parent.write_text("in the way")
    with pytest.raises(Unavailable, match="DATA_DIR"):
        await bench.open()


async def test_a_journal_that_is_not_open_takes_nothing(bench: Bench, make_event: MakeEvent) -> None:
    journal = JournaledUsageLog(bench.ledger, bench.folder, log=bench.log)
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
    segment = Segment.create(tmp_path)
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
from phalanx.contract.usage import UsageEvent
from phalanx.ids import Uuid7
from phalanx.stores.memory.clock import SystemClock
from phalanx.stores.sql.database import open_database
from phalanx.stores.sql.journal import JournaledUsageLog
from phalanx.stores.sql.usage import SqlUsageLog
from phalanx.telemetry import configure_logs

async def main(folder):
    new, database = Uuid7(SystemClock()), open_database(f"sqlite:///{folder}/phalanx.db")
    journal = JournaledUsageLog(SqlUsageLog(database), folder / "usage", log=configure_logs(),
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
    journal = JournaledUsageLog(SqlUsageLog(database), folder, log=CapturingLogger())
    await journal.open()
    counted = (await journal.totals()).requests
    async with database.transaction() as connection:
        found = {row[0] for row in await connection.exec_driver_sql("SELECT id FROM usage_events")}
    await journal.close()
    await database.close()
    return found, counted
