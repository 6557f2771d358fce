"""Workers as processes, of which one has no model and two work for it."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from servers.worker import START_S, WorkerProcess

CALLERS, CALLS = 6, 60


def test_of_two_workers_behind_one_may_be_killed(text_models: Path, tmp_path: Path) -> None:
    """Calls go to both; one is killed in the middle of the load; no call fails, none is billed twice, and health says it."""
    started = []
    try:
        shared = tmp_path / "shared"
        shared.mkdir()
        # Two processes over one folder know the same key.
        for port in ("0", "0"):
            worker = WorkerProcess(shared, text_models, {"GRPC_PORT": port, "SERVICES": "text"})
            started.append(worker)
            worker.wait_ready()
        service_key = started[0].key(email="gateway@example.org")
        urls = [f"grpc://127.0.0.1:{one.wait_for_line('listening')['grpc_port']}" for one in started]
        folder = tmp_path / "gateway"
        folder.mkdir()
        (folder / "none").mkdir()
        environ = {"TEXT_URL": ",".join(urls), "SERVICE_KEY": service_key, "SERVICES": "text"}
        gateway = WorkerProcess(folder, folder / "none", environ)
        started.append(gateway)
        gateway.wait_ready()
        key = gateway.key(scopes=("text", "usage"))
        expected = json.loads(started[0].post("/v1/text/embed", {"texts": ["Hello world"]}, service_key)[1])
        found = json.loads(gateway.post("/v1/text/embed", {"texts": ["Hello world"]}, key)[1])
        assert found["embeddings"] == expected["embeddings"]
        called = json.loads(gateway.run("call", "text.embed", '{"texts": ["Hello world"]}'))
        assert called["embeddings"] == expected["embeddings"]
        statuses: Counter[int] = Counter()
        under_load, lock = threading.Event(), threading.Lock()

        def caller(number: int) -> None:
            for turn in range(CALLS):
                status: Any = gateway.post("/v1/text/embed", {"texts": [f"caller {number} turn {turn}"]}, key)[0]
                with lock:
                    statuses[status] += 1
                    if statuses.total() == CALLERS * CALLS // 4:
                        under_load.set()

        threads = [threading.Thread(target=caller, args=(number,)) for number in range(CALLERS)]
        for thread in threads:
            thread.start()
        assert under_load.wait(START_S)
        answered = [len([line for line in one.lines() if line.get("dialect") == "grpc"]) for one in started[:2]]
        started[1].kill()
        for thread in threads:
            thread.join(START_S)
        assert statuses == {200: CALLERS * CALLS}
        assert min(answered) > 0
        report = json.loads(gateway.get("/v1/usage?by=operation", key)[1])
        counted = {row["group"]: row["requests"] for row in report["rows"]}
        assert counted["text.embed"] == CALLERS * CALLS + 1
        started[0].kill()
        deadline = time.monotonic() + START_S
        while (answer := gateway.post("/v1/text/embed", {"texts": ["nobody is there"]}, key))[0] != 503:
            assert time.monotonic() < deadline
        assert b"TEXT_URL" in answer[1]
        health = json.loads(gateway.get("/health")[1])
        assert health["dependencies"]["upstream_text"]["healthy"] is False
        assert gateway.get("/readyz")[0] == 200
    finally:
        for one in started:
            one.kill()


class Load:
    """Callers that send one text after the other until they are told to stop; `answers` counts statuses, and what failed."""

    def __init__(self, gateway: WorkerProcess, key: str) -> None:
        self.answers: Counter[tuple[int, bytes]] = Counter()
        self._gateway, self._key = gateway, key
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._call, args=(number,)) for number in range(4)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(START_S)

    def _call(self, number: int) -> None:
        turn = 0
        while not self._stop.is_set():
            turn += 1
            status, body = self._gateway.post("/v1/text/embed", {"texts": [f"{number} {turn}"]}, self._key)
            with self._lock:
                self.answers[status, b"" if status == 200 else body] += 1

    def await_more(self, by: int) -> None:
        """Wait for so many more answers."""
        wanted, deadline = self.answers.total() + by, time.monotonic() + START_S
        while self.answers.total() < wanted:
            assert time.monotonic() < deadline, self.answers
            time.sleep(0.02)


def has_served(worker: WorkerProcess) -> bool:
    """Whether a call over gRPC is in the log."""
    return any(line.get("dialect") == "grpc" for line in worker.lines())


def test_the_workers_behind_are_replaced_one_after_the_other(text_models: Path, tmp_path: Path) -> None:
    """Under load, at the same addresses, the second as soon as the first is ready again: no call fails, both go out in order."""
    shared, folder = tmp_path / "shared", tmp_path / "gateway"
    for made in (shared, folder, folder / "none"):
        made.mkdir()
    started: list[WorkerProcess] = []

    def start(port: object) -> WorkerProcess:
        started.append(WorkerProcess(shared, text_models, {"GRPC_PORT": str(port), "SERVICES": "text"}))
        return started[-1]

    try:
        behind = [start(0), start(0)]
        ports = [one.wait_for_line("listening")["grpc_port"] for one in behind]
        for one in behind:
            one.wait_ready()
        urls = ",".join(f"grpc://127.0.0.1:{port}" for port in ports)
        service_key = behind[0].key(email="gateway@example.org")
        environ = {"TEXT_URL": urls, "SERVICE_KEY": service_key, "SERVICES": "text"}
        gateway = WorkerProcess(folder, folder / "none", environ)
        started.append(gateway)
        gateway.wait_ready()
        key = gateway.key(scopes=("text", "usage"))
        with Load(gateway, key) as load:
            load.await_more(20)
            for place, port in enumerate(ports):
                assert behind[place].stop() == 0
                load.await_more(20)
                behind[place] = start(port)
                behind[place].wait_ready()
            deadline = time.monotonic() + START_S
            while not all(map(has_served, behind)):
                assert time.monotonic() < deadline, "a worker that came back was not called again"
                time.sleep(0.1)
        assert load.answers == {(200, b""): load.answers.total()}
        report = json.loads(gateway.get("/v1/usage?by=operation", key)[1])
        counted = {row["group"]: row["requests"] for row in report["rows"]}
        assert counted["text.embed"] == load.answers.total()
    finally:
        for one in started:
            one.kill()
