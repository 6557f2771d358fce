"""`phalanx work` without a model: the jobs of a queue are run by another worker, which is replaced meanwhile."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from live.queues import Producer, QueueProcess
from servers import RedisServer
from servers.worker import START_S, WorkerProcess, make_key

TEXTS = 40


def test_jobs_outlive_the_worker_that_runs_them(text_models: Path, tmp_path: Path, redis_server: RedisServer) -> None:
    """Texts that are queued across its restart are all done and each billed once, by a worker without a model."""
    redis_server.flush()
    producer = Producer(redis_server)
    behind_folder, folder = tmp_path / "behind", tmp_path / "queue"
    for made in (behind_folder, folder, folder / "none"):
        made.mkdir()
    started: list[WorkerProcess] = []

    def start(port: object) -> WorkerProcess:
        started.append(WorkerProcess(behind_folder, text_models, {"GRPC_PORT": str(port), "SERVICES": "text"}))
        started[-1].wait_ready()
        return started[-1]

    try:
        behind = start(0)
        port = behind.wait_for_line("listening")["grpc_port"]
        url = f"grpc://127.0.0.1:{port}"
        service_key = behind.key(email="gateway@example.org")
        environ = {
            "DATA_DIR": str(folder), "QUEUE_REDIS_URL": redis_server.url, "TEXT_URL": url, "SERVICE_KEY": service_key,
        }  # fmt: skip
        environ["QUEUES"] = f"jobs={make_key(environ, folder, 'queue@example.org').record.id}"
        started.append(QueueProcess(folder, folder / "none", environ))
        patient: dict[str, Any] = {"attempts": 1000, "backoff": {"type": "fixed", "delay": 500}}
        first, later = ([{"texts": [f"{word} {n}"]} for n in range(TEXTS // 2)] for word in ("first", "later"))
        producer.add_each("text.embed", first, **patient)
        producer.wait(completed=1)
        assert behind.stop() == 0
        producer.add_each("text.embed", later, **patient)
        start(port)
        assert producer.wait(completed=TEXTS)["failed"] == 0
        # Usage comes to the ledger by the worker's journal, a moment later.
        deadline = time.monotonic() + START_S
        while (billed := json.loads(started[1].run("usage", "report", "--json"))["total"]["billed"]) < TEXTS:
            assert time.monotonic() < deadline, billed
        assert billed == TEXTS
    finally:
        for one in started:
            one.kill()
