"""The steps of a job on their way: none lost that somebody listens for, none after the end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from phalanx.contract.jobs import JobProgress, JobStage, JobView
from phalanx.edges.queue.progress import Progress
from phalanx.services.jobs.service import Told
from phalanx.services.ticket import Step

pytestmark = pytest.mark.anyio


class Heard:
    """What was told, call by call; `fails` makes the next call fail."""

    def __init__(self) -> None:
        self.calls: list[list[tuple[str | None, float]]] = []
        self.failures: list[Exception] = []
        self.fails = False
        self.called = asyncio.Event()

    async def tell(self, new: Sequence[JobProgress]) -> None:
        self.called.set()
        if self.fails:
            self.fails = False
            raise ConnectionError
        self.calls.append([(one.stage, one.fraction) for one in new])


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def progress(heard: Heard) -> Progress:
    return Progress(heard.tell, heard.failures.append)


async def test_a_job_that_reports_nothing_tells_nothing(progress: Progress, heard: Heard) -> None:
    await progress.end()
    assert heard.calls == []


async def test_each_stage_is_told_and_of_each_the_latest_fraction(progress: Progress, heard: Heard) -> None:
    for step in (Step(0.0, "read"), Step(0.5, "write"), Step(0.6, "write"), Step(0.7), Step(0.9, "close")):
        progress.note(step)
    await progress.end()
    assert [one for call in heard.calls for one in call] == [("read", 0.0), ("write", 0.7), ("close", 0.9)]


async def test_the_first_step_is_told_at_once_and_fractions_are_gathered(progress: Progress, heard: Heard) -> None:
    progress.note(Step(0.0))
    await heard.called.wait()
    for n in range(1, 1001):
        progress.note(Step(n / 1000))
    await progress.end()
    assert heard.calls == [[(None, 0.0)], [(None, 1.0)]]


async def test_what_could_not_be_told_fails_nothing(progress: Progress, heard: Heard) -> None:
    heard.fails = True
    progress.note(Step(0.0, "read"))
    await heard.called.wait()
    progress.note(Step(0.5, "write"))
    await progress.end()
    assert heard.calls == [[("write", 0.5)]]
    assert isinstance(heard.failures[0], ConnectionError)


async def test_fractions_stay_within_the_whole(progress: Progress, heard: Heard) -> None:
    progress.note(Step(-1.0, "a"))
    progress.note(Step(2.0, "b"))
    await progress.end()
    assert heard.calls == [[("a", 0.0), ("b", 1.0)]]


def view(state: str, *stages: tuple[str, float]) -> JobView:
    known = [JobStage(stage=name, at=at, fraction=0.1) for name, at in stages]
    progress = JobProgress(fraction=0.5, stage=known[-1].stage, stages=known) if known else None
    return JobView(
        id="1", operation="o", queue="q", state=state, attempts=0, created_at=0.0, progress=progress,  # type: ignore[arg-type]
    )  # fmt: skip


def missed(told: Told, now: JobView) -> list[str | None]:
    found = told.missed(now)
    assert all(one.state == "active" and one.result is None for one in found)
    return [one.progress.stage for one in found if one.progress]


async def test_who_follows_misses_no_stage_of_any_attempt() -> None:
    told = Told()
    assert missed(told, view("waiting")) == []
    assert missed(told, view("active", ("a", 1.0))) == []
    assert missed(told, view("active", ("a", 1.0), ("b", 2.0), ("c", 3.0))) == ["b"]
    assert missed(told, view("delayed", ("a", 1.0), ("b", 2.0), ("c", 3.0))) == []
    assert missed(told, view("active", ("a", 7.0), ("b", 8.0))) == ["a"]
    assert missed(told, view("completed", ("a", 7.0), ("b", 8.0), ("c", 9.0))) == ["c"]
