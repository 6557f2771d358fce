"""What a queue must outlive: an installation of several workers, and what is done to it while jobs run.

Each job keeps one point of its own, without an id, so that a job that ran twice shows in nothing but its point, and each
is to be billed once.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from live.queues import Producer, QueueProcess
from servers import PostgresServer, RedisServer
from servers.qdrant import QdrantStandIn
from servers.worker import PHALANX, make_key

COLLECTION = "kept"
PATIENCE_S = 240.0
MOST_WAITING = 200


class Outcome(NamedTuple):
    """What became of `queued` jobs. `active` were under way at the blow; `events` includes attempts that are not billed.

    `took_s` is from the first job that was queued.
    """

    queued: int
    active: int
    completed: int
    failed: int
    left: int
    points: int
    billed: int
    events: int
    took_s: float

    @property
    def is_whole(self) -> bool:
        """Whether each job completed, left its point, and was billed once."""
        each = (self.completed, self.points, self.billed)
        return each == (self.queued,) * 3 and (self.failed, self.left) == (0, 0)


class Installation:
    """PostgreSQL, Redis with an append-only file, vectors, and any number of workers of the queue `jobs`."""

    def __init__(self, folder: Path, models_dir: Path, environ: dict[str, str], redis: RedisServer) -> None:
        self.folder = folder
        self.redis = redis
        self.producer = Producer(redis)
        self.queued = 0
        self.began = 0.0
        self._models_dir = models_dir
        self._workers: list[QueueProcess] = []
        self._environ = {"DATA_DIR": str(folder), "MODEL_DIR": str(models_dir), "SERVICES": "vectors", **environ}
        record = make_key(self._environ, folder, "queue@example.org", scopes=("vectors",)).record
        self.organisation = record.organisation
        self._environ["QUEUES"] = f"jobs={record.id}"
        made = {"name": COLLECTION, "kind": "vectors", "dimensions": 4, "organisation": self.organisation}
        self.run("call", "collections.create", json.dumps(made))

    def run(self, *words: str) -> str:
        """Run a command of ours and return what it prints."""
        done = subprocess.run(
            [PHALANX, *words], env=self._environ, capture_output=True, text=True, check=False, cwd=self.folder
        )
        if done.returncode:
            raise RuntimeError(f"phalanx {words[0]}: {done.stderr[-2000:]}")
        return done.stdout

    def start(self, **environ: str) -> QueueProcess:
        """Start one more worker."""
        self._workers.append(QueueProcess(self.folder, self._models_dir, {**self._environ, **environ}))
        return self._workers[-1]

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers:
            worker.kill()

    def queue(self, count: int) -> None:
        """Queue so many jobs."""
        self.began = self.began or time.monotonic()
        data = [_job(number) for number in range(self.queued, self.queued + count)]
        self.producer.add_each("collections.upsert", data)
        self.queued += count

    def wait(self, completed: int) -> dict[str, int]:
        """Wait until so many jobs are done, or one has failed."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            counts = self.producer.counts()
            if counts["completed"] >= completed or counts["failed"]:
                return counts
            if time.monotonic() > deadline:
                raise TimeoutError(str(counts))
            time.sleep(0.2)

    def outcome(self, active: int = 0) -> Outcome:
        """Wait until every job is done, end the workers in order, and count."""
        counts = self.wait(self.queued)
        took_s = time.monotonic() - self.began
        for worker in self._workers:
            if worker.process.poll() is None and worker.stop():
                raise RuntimeError(f"a worker ended badly: {worker.log.read_text()[-2000:]}")
        total = json.loads(self.run("usage", "report", "--json"))["total"]
        left = sum(counts[state] for state in ("wait", "active", "delayed"))
        return Outcome(
            self.queued, active, counts["completed"], counts["failed"], left, self._points(), total["billed"],
            total["requests"], took_s,
        )  # fmt: skip

    def _points(self) -> int:
        count, after = 0, None
        while True:
            asked = {"name": COLLECTION, "organisation": self.organisation, "limit": 1000, "after": after}
            page = json.loads(self.run("call", "collections.scroll", json.dumps(asked)))
            count, after = count + len(page["points"]), page.get("next")
            if after is None:
                return count


@contextmanager
def installation(
    folder: Path, models_dir: Path, postgres: PostgresServer, redis: RedisServer
) -> Iterator[Installation]:
    """Make an installation on servers that run; the vectors' server is its own."""
    redis.flush()
    qdrant = QdrantStandIn()
    with ExitStack() as ends:
        ends.callback(qdrant.remove)
        qdrant.start()
        environ = {"DATABASE_URL": postgres.create_database(), "REDIS_URL": redis.url, "QDRANT_URL": qdrant.url}
        made = Installation(folder, models_dir, environ, redis)
        ends.callback(made.close)
        yield made


def kill_a_worker(place: Installation, *, jobs: int, running: int) -> Outcome:
    """Kill a worker by SIGKILL with `running` of its jobs under way, and have another take over."""
    place.queue(jobs)
    worker = place.start(QUEUE_CONCURRENCY=str(running))
    place.wait(jobs // 10)
    worker.kill()
    active = place.producer.counts()["active"]
    place.start(QUEUE_CONCURRENCY=str(running))
    return place.outcome(active)


def restart_redis(place: Installation, *, jobs: int, running: int, away_s: float = 1.0) -> Outcome:
    """Kill Redis by SIGKILL under way, and start it again on its append-only file."""
    place.queue(jobs)
    place.start(QUEUE_CONCURRENCY=str(running))
    place.wait(jobs // 10)
    place.redis.kill()
    time.sleep(away_s)
    place.redis.start()
    return place.outcome(running)


def replace_workers(place: Installation, *, workers: int, batch: int, running: int) -> Outcome:
    """Replace workers one after the other, a new one first, while jobs keep coming."""
    old = [place.start(QUEUE_CONCURRENCY=str(running)) for _ in range(workers)]
    over = threading.Event()
    failed: list[Exception] = []

    def stream() -> None:
        try:
            while not over.wait(0.1):
                # A machine that cannot keep up would only pile up jobs.
                if place.producer.counts()["wait"] < MOST_WAITING:
                    place.queue(batch)
        except Exception as error:
            failed.append(error)

    producing = threading.Thread(target=stream)
    producing.start()
    try:
        for worker in old:
            place.start(QUEUE_CONCURRENCY=str(running))
            if worker.stop():
                raise RuntimeError(f"a worker ended badly: {worker.log.read_text()[-2000:]}")
            _moves_on(place)
    finally:
        over.set()
        producing.join()
    if failed:
        raise failed[0]
    return place.outcome(running)


def _moves_on(place: Installation) -> None:
    """Wait until jobs complete that were not yet."""
    place.wait(place.producer.counts()["completed"] + 1)


def _job(number: int) -> dict[str, Any]:
    return {"name": COLLECTION, "points": [{"vector": [1.0, float(number), 0.0, 2.0], "payload": {"job": number}}]}
