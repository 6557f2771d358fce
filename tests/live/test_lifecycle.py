"""Starting, watching, killing and draining a worker process."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from servers.worker import START_S

BODY = {"texts": ["a text of some length to keep the engine busy for a moment"] * 4}
EMBED = "/v1/text/embed"


class Load:
    """Clients that post one after the other until told to stop; every text is new, so nothing is cached."""

    def __init__(self, worker: Any, key: str, clients: int = 4) -> None:
        self.statuses: Counter[int] = Counter()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(worker, key, number), daemon=True) for number in range(clients)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, worker: Any, key: str, number: int) -> None:
        count = 0
        while not self._stop.is_set():
            count += 1
            status, _ = worker.post(EMBED, {"texts": [f"client {number} says {count} and more", "twice"]}, key)
            self.statuses[status] += 1
            if status == 0:
                return

    def wait_for_answers(self, count: int) -> None:
        """Wait until so many calls were answered with 200."""
        deadline = time.monotonic() + START_S
        while self.statuses[200] < count:
            assert time.monotonic() < deadline, self.statuses
            time.sleep(0.01)

    def stop(self) -> Counter[int]:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=30)
        return self.statuses


def billed(worker: Any) -> int:
    """Events in the database of a stopped worker."""
    with sqlite3.connect(worker.folder / "phalanx.db") as database:
        return int(database.execute("SELECT count(*) FROM usage_events WHERE status = 'ok'").fetchone()[0])


def test_probes_and_facts(start: Callable[..., Any]) -> None:
    """Live at once, ready when the canary came back; build facts and dependencies are shown."""
    worker = start()
    assert worker.get("/livez")[0] == 200
    worker.wait_ready()
    assert worker.get("/startupz")[0] == 200
    health = json.loads(worker.get("/health")[1])
    assert health["status"] == "healthy"
    assert health["dependencies"]["database"]["healthy"] is True
    assert health["build"]["python_version"]
    assert worker.get("/api/status")[0] == 401
    admin = worker.key(scopes=("admin",))
    status = json.loads(worker.get("/api/status", admin)[1])
    assert status["ready"]
    assert status["queues"]["all-MiniLM-L6-v2"]["batches"] >= 1


def test_a_worker_without_its_model_says_what_to_run(start: Callable[..., Any], tmp_path: Path) -> None:
    """Alive, not ready, and every refusal names the command."""
    worker = start(MODEL_DIR=str(tmp_path / "nothing"))
    worker.wait_for_line("model missing")
    assert worker.get("/livez")[0] == 200
    status, body = worker.get("/readyz")
    assert (status, b"phalanx models pull all-MiniLM-L6-v2" in body) == (503, True)
    status, body = worker.post(EMBED, BODY, worker.key())
    assert (status, b"phalanx models pull all-MiniLM-L6-v2" in body) == (503, True)


def test_a_restart_keeps_keys_and_usage(start: Callable[..., Any]) -> None:
    """What was made before works after."""
    worker = start()
    worker.wait_ready()
    key = json.loads(worker.run("keys", "create", "live@example.org", "--scope", "text", "--json"))["key"]
    assert worker.post(EMBED, BODY, key)[0] == 200
    assert worker.stop() == 0
    again = start()
    again.wait_ready()
    assert again.post(EMBED, BODY, key)[0] == 200
    assert again.stop() == 0
    assert billed(again) == 2


def test_one_line_a_request(texts: Any) -> None:
    """The canonical line has what a search needs, and neither key nor text."""
    key = texts.key(email="line@example.org")
    assert texts.post(EMBED, {"texts": ["a secret sentence"]}, key)[0] == 200
    deadline = time.monotonic() + START_S
    while not (found := [one for one in texts.lines() if one.get("organisation") == "line@example.org"]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (line,) = found
    assert (line["route"], line["event"]) == (EMBED, "request")
    assert (line["status"], line["code"], line["operation"], line["dialect"]) == (200, "ok", "text.embed", "canonical")
    assert {"request_id", "ms", "queue_ms", "engine_ms", "tokens", "organisation", "key_id"} <= set(line)
    text = texts.log.read_text()
    assert key not in text
    assert "secret sentence" not in text


def test_metrics_count_requests(texts: Any) -> None:
    """On their own port, with the event loop's lag."""

    def answered() -> float:
        name = 'phalanx_requests_total{code="ok",dialect="canonical",operation="text.embed"} '
        return sum(float(line.removeprefix(name)) for line in texts.metrics().splitlines() if line.startswith(name))

    before = answered()
    texts.post(EMBED, BODY, texts.key())
    assert answered() == before + 1
    text = texts.metrics()
    assert "phalanx_event_loop_lag_seconds_count" in text
    assert "phalanx_model_info{" in text
    assert texts.get("/metrics")[0] == 404


def test_a_drained_worker_finishes_what_it_has(start: Callable[..., Any]) -> None:
    """SIGTERM under load: /readyz turns false while calls are still taken, then all finish; nobody is cut off."""
    worker = start(DRAIN_DELAY_SECS="2")
    worker.wait_ready()
    load = Load(worker, worker.key())
    load.wait_for_answers(11)
    worker.signal(signal.SIGTERM)
    deadline = time.monotonic() + START_S
    while (status := worker.get("/readyz")[0]) == 200:
        assert time.monotonic() < deadline
    assert status == 503
    assert worker.get("/livez")[0] == 200
    assert worker.process.wait(timeout=30) == 0
    statuses = load.stop()
    assert set(statuses) <= {200, 0}
    assert billed(worker) == statuses[200]


def test_a_killed_worker_loses_no_answered_call(start: Callable[..., Any]) -> None:
    """kill -9 under load: after the next start, every answered call is in the ledger, none twice."""
    worker = start()
    worker.wait_ready()
    key = worker.key()
    load = Load(worker, key)
    load.wait_for_answers(30)
    worker.signal(signal.SIGKILL)
    worker.process.wait()
    statuses = load.stop()
    again = start()
    again.wait_ready()
    assert again.stop() == 0
    in_flight = 4
    assert statuses[200] <= billed(again) <= statuses[200] + in_flight


def test_a_second_worker_on_the_port_says_so(texts: Any, start: Callable[..., Any]) -> None:
    """The message names the port and the variable."""
    port = str(texts.port)
    with pytest.raises(AssertionError, match=f"(?s){port}.*PORT"):
        start(PORT=port)


def test_sigint_ends_it_too(start: Callable[..., Any]) -> None:
    """Ctrl-C is no crash."""
    worker = start()
    worker.wait_ready()
    worker.signal(signal.SIGINT)
    assert worker.process.wait(timeout=30) == 0
    assert "Traceback" not in worker.log.read_text()


def test_bad_settings_are_listed(tmp_path: Path) -> None:
    """One line a problem, exit status 1, no traceback."""
    environ = {"PORT": "x", "AUTH": "y", "DATA_DIR": str(tmp_path), "PATH": os.environ["PATH"]}
    words = [str(Path(sys.executable).parent / "phalanx"), "serve"]
    done = subprocess.run(words, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["PORT", "AUTH"]
