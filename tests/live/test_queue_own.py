"""Jobs that a worker without Redis keeps in its database and runs itself: through a kill, and a job that kills."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from live.queues import PATIENCE_S, POISONED, always_running
from servers.worker import WorkerProcess

Start = Callable[[], WorkerProcess]


@pytest.fixture
def start(text_models: Path, tmp_path: Path) -> Iterator[Start]:
    started: list[WorkerProcess] = []
    environ = {"SERVICES": "vectors", "QUEUE_CONCURRENCY": "10"}

    def launch() -> WorkerProcess:
        started.append(WorkerProcess(tmp_path, text_models, environ, command=[*POISONED, "serve"]))
        return started[-1]

    yield launch
    for worker in started:
        worker.kill()


class Jobs:
    """What a caller sees of its jobs, of whichever process is there."""

    def __init__(self, workers: list[WorkerProcess]) -> None:
        self._workers = workers
        workers[0].wait_ready()
        self._key = workers[0].key(scopes=("text", "jobs"))

    def add(self, operation: str, count: int = 1) -> list[str]:
        """Queue the same job so often; returns the ids."""
        made = [
            self._workers[-1].post("/v1/jobs", {"operation": operation, "request": {}}, self._key) for _ in range(count)
        ]
        assert {status for status, _ in made} == {202}, made
        return [json.loads(body)["id"] for _, body in made]

    def states(self) -> Counter[str]:
        """How many jobs are in which state; none while nobody answers."""
        status, body = self._workers[-1].get("/v1/jobs?limit=1000", self._key)
        return Counter(one["state"] for one in json.loads(body)["jobs"]) if status == 200 else Counter()

    def wait(self, done: Callable[[Counter[str]], bool]) -> Counter[str]:
        """Wait for states."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            states = self.states()
            if done(states):
                return states
            assert time.monotonic() < deadline, states
            time.sleep(0.1)

    def error(self, job_id: str) -> str:
        """The code with which a job failed."""
        return str(json.loads(self._workers[-1].get(f"/v1/jobs/{job_id}", self._key)[1])["error"]["code"])

    def billed(self) -> int:
        """The billed calls of the ledger, jobs alone: what asks for them is not billed."""
        return int(json.loads(self._workers[-1].run("usage", "report", "--json"))["total"]["billed"])


def test_jobs_survive_a_kill_of_their_process_and_are_billed_once(start: Start) -> None:
    with always_running(start) as workers:
        jobs = Jobs(workers)
        jobs.add("test.sleep", 60)
        jobs.wait(lambda states: states["completed"] >= 10 and states["active"] > 1)
        workers[-1].process.kill()
        assert jobs.wait(lambda states: states["completed"] + states["failed"] == 60) == {"completed": 60}
        assert len(workers) == 2
        assert workers[-1].stop() == 0
        assert jobs.billed() == 60


def test_a_job_that_kills_is_found_and_its_neighbours_are_not_blamed(start: Start) -> None:
    with always_running(start) as workers:
        jobs = Jobs(workers)
        jobs.add("test.sleep", 15)
        (poison,) = jobs.add("test.poison")
        jobs.wait(lambda states: len(workers) > 1 and states.total() == 16)
        jobs.add("test.sleep", 5)
        states = jobs.wait(lambda states: states["completed"] + states["failed"] == 21)
        assert states == {"completed": 20, "failed": 1}
        assert jobs.error(poison) == "job_quarantined"
        assert len(workers) == 5
