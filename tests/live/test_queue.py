"""`phalanx work` as its user has it: jobs of a producer, through kills, a restart of Redis, and a job that kills."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from live.queues import POISONED, Producer, QueueProcess, always_running, billed
from servers import PostgresServer, RedisServer
from servers.worker import PHALANX, WorkerProcess, make_key

Start = Callable[..., QueueProcess]


@pytest.fixture
def producer(redis_server: RedisServer) -> Producer:
    redis_server.flush()
    return Producer(redis_server)


@pytest.fixture
def environ(redis_server: RedisServer, tmp_path: Path) -> dict[str, str]:
    """What a worker knows: a queue bound to a key that may do as much as it likes."""
    known = {"DATA_DIR": str(tmp_path), "QUEUE_REDIS_URL": redis_server.url, "QUEUE_CONCURRENCY": "10"}
    key = make_key(known, tmp_path, "queue@example.org", scopes=("text", "vectors"))
    return {**known, "QUEUES": f"jobs={key.record.id}"}


@pytest.fixture
def start(environ: dict[str, str], text_models: Path, tmp_path: Path) -> Iterator[Start]:
    started: list[QueueProcess] = []

    def launch(*, poisoned: bool = False, **more: str) -> QueueProcess:
        command = POISONED if poisoned else [PHALANX, "work"]
        started.append(QueueProcess(tmp_path, text_models, {**environ, **more}, command=command))
        return started[-1]

    yield launch
    for worker in started:
        worker.kill()


def test_jobs_survive_kills_of_their_worker_and_are_billed_once(
    start: Start, producer: Producer, environ: dict[str, str], tmp_path: Path
) -> None:
    with always_running(lambda: start(poisoned=True)) as workers:
        producer.add("test.sleep", {}, 200)
        for done in (30, 90):
            producer.wait(completed=done)
            assert producer.counts()["active"] > 1
            workers[-1].process.kill()
        counts = producer.wait(completed=200)
        assert counts == {"wait": 0, "active": 0, "delayed": 0, "completed": 200, "failed": 0}
        assert len(workers) == 3
        assert workers[-1].stop() == 0
    assert billed(tmp_path, workers[0].environ) == 200


def test_a_job_that_kills_is_found_and_its_neighbours_are_not_blamed(start: Start, producer: Producer) -> None:
    with always_running(lambda: start(poisoned=True)) as workers:
        producer.add("test.sleep", {}, 20)
        (poison,) = producer.add("test.poison", {})
        producer.add("test.sleep", {}, 20)
        counts = producer.wait(completed=40, failed=1)
        assert counts == {"wait": 0, "active": 0, "delayed": 0, "completed": 40, "failed": 1}
        assert len(workers) == 5
        assert producer.reason(poison)["code"] == "job_quarantined"


def test_nothing_is_lost_when_redis_restarts(
    start: Start, producer: Producer, redis_server: RedisServer, environ: dict[str, str], tmp_path: Path
) -> None:
    worker = start(poisoned=True)
    producer.add("test.sleep", {}, 200)
    producer.wait(completed=40)
    redis_server.kill()
    time.sleep(1.0)
    redis_server.start()
    counts = producer.wait(completed=200)
    assert counts == {"wait": 0, "active": 0, "delayed": 0, "completed": 200, "failed": 0}
    assert worker.stop() == 0
    assert billed(tmp_path, worker.environ) == 200


def test_a_worker_that_is_told_to_stop_finishes_what_runs_and_takes_no_more(start: Start, producer: Producer) -> None:
    worker = start(poisoned=True)
    producer.add("test.sleep", {}, 100)
    producer.wait(completed=10)
    assert worker.stop() == 0
    counts = producer.counts()
    assert (counts["active"], counts["failed"], counts["delayed"]) == (0, 0, 0)
    assert counts["completed"] < 100
    assert counts["wait"] == 100 - counts["completed"]


def test_a_second_signal_gives_back_what_runs(start: Start, producer: Producer) -> None:
    worker = start(poisoned=True, QUEUE_CONCURRENCY="2")
    producer.add("test.sleep", {}, 20)
    producer.wait(completed=2)
    worker.signal(signal.SIGTERM)
    worker.signal(signal.SIGTERM)
    assert worker.process.wait(20) == 0
    counts = producer.counts()
    assert (counts["active"], counts["failed"]) == (0, 0)
    assert sum(counts.values()) == 20
    start(poisoned=True)
    assert producer.wait(completed=20)["failed"] == 0


def test_what_redis_has_of_a_job_may_be_broken(start: Start, producer: Producer) -> None:
    """None of it stays with the worker for ever: each job fails with the reason, or runs where it may."""
    harmless = (("progress", b"{"), ("returnvalue", b"{"), ("opts", b'{"backoff": 5}'), ("delay", b"1.5"))
    fatal = (
        ("ats", b"x"), ("data", b"{"), ("data", b'"\xff"'), ("data", b"[" * 100_000), ("opts", b"["), ("opts", b'{"attempts": "three"}'),
        ("opts", b'{"removeOnComplete": [1]}'), ("timestamp", b"soon"), ("atm", b"x"), ("stc", b"x"), ("parent", b"{"),
        ("phx:at", b"x"), ("ats", b"1.5"), ("ats", b"9" * 30), ("atm", b"1e3"), ("ats", b""),
        ("parent", b"{}"), ("parentKey", b"x"),
    )  # fmt: skip
    ids = producer.add("text.embed", {"texts": ["x"]}, len(harmless) + len(fatal))

    async def damage(queue: object) -> None:
        client = queue.backend.conn  # type: ignore[attr-defined]
        for job_id, (field, value) in zip(ids, (*harmless, *fatal), strict=True):
            await client.hset(f"bull:jobs:{job_id}", field, value)

    producer.run(damage)
    start(QUEUE_CONCURRENCY="1")
    producer.wait(completed=len(harmless), failed=len(fatal))
    assert {producer.reason(one)["code"] for one in ids[len(harmless) :]} == {"invalid_request"}
    stumbled = f"bull:jobs:{ids[len(harmless)]}"
    assert producer.run(lambda queue: queue.backend.conn.hget(stumbled, "stc")) is None


def test_without_redis_or_queues_there_is_nothing_to_work_on(tmp_path: Path, environ: dict[str, str]) -> None:
    for missing in ("QUEUES", "QUEUE_REDIS_URL"):
        known = {name: value for name, value in environ.items() if name != missing}
        done = subprocess.run([PHALANX, "work"], env=known, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 1
        assert missing in done.stderr


def test_a_job_of_the_api_is_run_by_a_worker_of_the_queue(
    postgres: PostgresServer, redis_server: RedisServer, text_models: Path, tmp_path: Path
) -> None:
    redis_server.flush()
    known = {"DATABASE_URL": postgres.create_database(), "REDIS_URL": redis_server.url}
    server = WorkerProcess(tmp_path, text_models, known)
    try:
        server.wait_ready()
        key = server.key(scopes=("text", "jobs"))
        request = {"operation": "text.embed", "request": {"texts": ["Hello world"]}, "attempts": 2, "priority": 3}
        made = [server.post("/v1/jobs", request, key) for _ in range(3)]
        assert [status for status, _ in made] == [202] * 3
        ids = [json.loads(body)["id"] for _, body in made]
        assert server.ask("DELETE", f"/v1/jobs/{ids[2]}", key=key)[0] == 200
        worker = QueueProcess(tmp_path, text_models, known, command=[PHALANX, "work", "phalanx"])
        try:
            _, followed = server.get(f"/v1/jobs/{ids[1]}/events", key)
            assert b'"completed"' in followed
            done = json.loads(server.get(f"/v1/jobs/{ids[0]}", key)[1])
            assert (done["state"], done["attempts"]) == ("completed", 0)
            assert len(done["result"]["embeddings"][0]) == 384
            assert [one["id"] for one in json.loads(server.get("/v1/jobs", key)[1])["jobs"]] == [ids[1], ids[0]]
            deadline = time.monotonic() + 60
            while "\nphalanx_ready 1.0\n" not in worker.metrics():
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert worker.stop() == 0
        finally:
            worker.kill()
    finally:
        server.kill()
