"""`phalanx work` without a model: the jobs of a queue are run by another worker, which is replaced meanwhile."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

from live.queues import Producer, QueueProcess
from pictures import astronaut, saved
from servers import RedisServer
from servers.worker import PHALANX, WorkerProcess

TEXTS = 40
SCOPES = ("text", "faces", "vectors")


def test_jobs_outlive_the_worker_that_runs_them(models_dir: Path, tmp_path: Path, redis_server: RedisServer) -> None:
    """Texts and an enrolment, queued across its restart, are all done and each billed once, by a worker without a model."""
    redis_server.flush()
    producer = Producer(redis_server)
    behind_folder, folder = tmp_path / "behind", tmp_path / "queue"
    for made in (behind_folder, folder, folder / "none"):
        made.mkdir()
    started: list[WorkerProcess] = []

    def start(port: object) -> WorkerProcess:
        started.append(WorkerProcess(behind_folder, models_dir, {"GRPC_PORT": str(port)}))
        started[-1].wait_ready()
        return started[-1]

    try:
        behind = start(0)
        port = behind.wait_for_line("listening")["grpc_port"]
        url = f"grpc://127.0.0.1:{port}"
        service_key = behind.key(email="gateway@example.org", scopes=(*SCOPES, "admin"))
        environ = {
            "DATA_DIR": str(folder), "QUEUE_REDIS_URL": redis_server.url, "TEXT_URL": url, "FACES_URL": url,
            "COLLECTIONS_URL": url, "SERVICE_KEY": service_key, "QUEUE_ATTEMPTS": "1000",
        }  # fmt: skip
        scopes = [word for scope in SCOPES for word in ("--scope", scope)]
        words = [PHALANX, "keys", "create", "queue@example.org", "--tier", "scale", *scopes, "--json"]
        made_key = subprocess.run(words, env=environ, capture_output=True, text=True, check=True, cwd=folder)
        environ["QUEUES"] = f"jobs={json.loads(made_key.stdout)['record']['id']}"
        started.append(QueueProcess(folder, folder / "none", environ))
        created = '{"name": "people", "kind": "faces", "organisation": "queue@example.org"}'
        started[-1].run("call", "collections.create", created)
        backoff = {"type": "fixed", "delay": 500}
        first, later = ([{"texts": [f"{word} {n}"]} for n in range(TEXTS // 2)] for word in ("first", "later"))
        producer.add_each("text.embed", first, backoff=backoff)
        producer.wait(completed=1)
        assert behind.stop() == 0
        image = base64.b64encode(saved(astronaut(), "JPEG", quality=92)).decode()
        producer.add_each("text.embed", later, backoff=backoff)
        producer.add("faces.enrol", {"name": "people", "person_id": "eileen", "image": image}, backoff=backoff)
        start(port)
        assert producer.wait(completed=TEXTS + 1)["failed"] == 0
        report = json.loads(started[1].run("usage", "report", "--json"))
        assert report["total"]["billed"] == TEXTS + 1
    finally:
        for one in started:
            one.kill()
