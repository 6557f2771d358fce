"""`phalanx usage` on a database of its own: what it prints, and what its exit status says."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner, Result

from phalanx.cli.root import app
from phalanx.contract.usage import UsageEvent, UsageReportResponse
from phalanx.stores.days import day_at, id_bounds
from phalanx.stores.sql.database import migrate, open_database
from phalanx.stores.sql.usage import SqlUsageLog

TODAY = day_at(time.time())
LONG_AGO = "2025-12-01"


def event(day: str, n: int, organisation: str) -> UsageEvent:
    return UsageEvent(
        id=f"{id_bounds(day)[0]}-7000-8000-{n:012x}", at=time.time(), organisation=organisation, key_id="key-1",
        operation="text.embed", unit="token", units=1_000 * n, tokens=n, cached=0, model="m", status="ok", latency_ms=1.0,
    )  # fmt: skip


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A worker's database with some usage: today's of two organisations, and one event of long ago."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("LOG_LEVEL", "error")
    path = tmp_path / "phalanx.db"
    migrate(f"sqlite:///{path}")

    async def fill() -> None:
        opened = open_database(f"sqlite:///{path}")
        await SqlUsageLog(opened).record([event(TODAY, 1, "a"), event(TODAY, 2, "b"), event(LONG_AGO, 3, "a")])
        await opened.close()

    asyncio.run(fill())
    return path


def usage(*words: str) -> Result:
    return CliRunner().invoke(app, ["usage", *words])


@pytest.mark.usefixtures("database")
def test_a_report_is_of_everybody_unless_said_otherwise() -> None:
    answer = usage("report", "--json")
    assert answer.exit_code == 0, answer.output
    report = msgspec.json.decode(answer.stdout, type=UsageReportResponse)
    assert (report.organisation, report.total.requests, report.total.units) == ("*", 2, 3_000)
    assert abs(report.complete_until - time.time()) < 60.0
    answer = usage("report", "--organisation", "a", "--from", LONG_AGO, "--by", "key", "--json", "--to", "2025-12-31")
    report = msgspec.json.decode(answer.stdout, type=UsageReportResponse)
    assert [(row.group, row.units) for row in report.rows] == [("key-1", 3_000)]


@pytest.mark.usefixtures("database")
def test_a_report_is_a_table_with_its_total_and_watermark() -> None:
    answer = usage("report", "--by", "operation")
    assert answer.exit_code == 0, answer.output
    for words in ("text.embed", "3,000", "total", "complete for calls that began before"):
        assert words in answer.stdout


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--from", "yesterday"), "is no day, such as"),
        (("--by", "hour"), "'hour' is not one of"),
        (("--from", "2026-02-30"), "2026-02-30"),
        (("--from", "2001-01-01"), "400 are allowed"),
    ],
)
def test_a_report_of_days_that_make_no_sense_is_refused(words: tuple[str, ...], said: str) -> None:
    answer = usage("report", *words)
    assert answer.exit_code != 0
    assert said in f"{answer.output} {answer.exception}"


def test_books_that_differ_are_told_by_the_exit_status_until_they_are_repaired(database: Path) -> None:
    assert usage("reconcile").exit_code == 0
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE usage_daily SET units = 5 WHERE organisation = 'b'")
    answer = usage("reconcile")
    assert answer.exit_code == 1
    assert answer.stdout == f"{TODAY} b key-1 text.embed m: units is 2000 by events, 5 by sums\n"
    answer = usage("reconcile", "--repair")
    assert (answer.exit_code, "made anew" in answer.output) == (0, True)
    assert usage("reconcile").exit_code == 0


def test_old_events_go_and_their_sums_stay(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "kept for good" in usage("expire").output
    monkeypatch.setenv("USAGE_RETENTION_DAYS", "30")
    assert "The events of 1 day went" in usage("expire").output
    assert "The events of 0 days went" in usage("expire").output
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT count(*) FROM usage_events").fetchone() == (2,)
        assert connection.execute("SELECT count(*) FROM usage_daily").fetchone() == (3,)
    assert usage("reconcile").exit_code == 0
