"""A producer of jobs, and workers of their queue as processes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import bullmq

from servers import RedisServer
from servers.worker import PHALANX, WorkerProcess

T = TypeVar("T")
W = TypeVar("W", bound=WorkerProcess)
PATIENCE_S = 300.0
"""A job that kills takes four deaths of its worker: two minutes where nothing else runs, and more on a busy machine."""
BULK = 500
POISONED = [sys.executable, str(Path(__file__).parent / "poisoned_worker.py")]


class QueueProcess(WorkerProcess):
    """A running `phalanx work`."""

    def __init__(
        self, folder: Path, models_dir: Path, environ: dict[str, str], *, command: Sequence[str] = (PHALANX, "work")
    ) -> None:
        try:
            super().__init__(folder, models_dir, environ, command=command, started="working")
        except AssertionError:
            self.kill()
            raise


class Producer:
    """An application that queues jobs and reads what became of them."""

    def __init__(self, server: RedisServer, name: str = "jobs") -> None:
        self._server = server
        self._name = name

    def run(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """Do something with the queue."""

        async def connected() -> T:
            queue = bullmq.Queue(self._name, {"connection": self._server.url})
            try:
                return await work(queue)
            finally:
                await queue.close()

        return asyncio.run(connected())

    def add(self, name: str, data: Any, count: int = 1, **options: Any) -> list[str]:
        """Queue the same job so often; returns the ids."""

        async def work(queue: Any) -> list[str]:
            jobs = await queue.addBulk([{"name": name, "data": data, "opts": options} for _ in range(count)])
            return [job.id for job in jobs]

        return self.run(work)

    def add_each(self, name: str, data: Sequence[Any], **options: Any) -> list[str]:
        """Queue a job for each of `data`; returns the ids."""

        async def work(queue: Any) -> list[str]:
            ids: list[str] = []
            for begin in range(0, len(data), BULK):
                some = [{"name": name, "data": one, "opts": options} for one in data[begin : begin + BULK]]
                ids += [job.id for job in await queue.addBulk(some)]
            return ids

        return self.run(work)

    def counts(self) -> dict[str, int]:
        """How many jobs are in which state."""
        return self.run(lambda queue: queue.getJobCounts("wait", "active", "delayed", "completed", "failed"))

    def look(self, job_id: str) -> Any:
        """A job as it is now."""
        return self.run(lambda queue: bullmq.Job.fromId(queue, job_id))

    def reason(self, job_id: str) -> dict[str, str]:
        """Why a job failed."""
        key = f"bull:{self._name}:{job_id}"
        return dict(json.loads(self.run(lambda queue: queue.backend.conn.hget(key, "failedReason"))))

    def wait(self, *, completed: int = 0, failed: int = 0) -> dict[str, int]:
        """Wait until at least so many jobs have ended so."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            counts = self.counts()
            if counts["completed"] >= completed and counts["failed"] >= failed:
                return counts
            assert time.monotonic() < deadline, counts
            time.sleep(0.1)


@contextmanager
def always_running(start: Callable[[], W]) -> Iterator[list[W]]:
    """Keep a worker running, as a service manager does: one that dies is started again. Yields those there were."""
    started, over = [start()], threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            if started[-1].process.poll() is not None:
                started.append(start())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield started
    finally:
        over.set()
        thread.join()
        started[-1].kill()


def billed(folder: Path, environ: dict[str, str]) -> int:
    """The requests of the ledger, of all organisations."""
    shown = subprocess.run(
        [PHALANX, "usage", "report", "--json"], env=environ, capture_output=True, text=True, check=True, cwd=folder
    )
    return int(json.loads(shown.stdout)["total"]["requests"])
