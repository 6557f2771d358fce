"""How a worker ends when whoever ends it is impatient: with 0, whenever the signals come."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from servers import PostgresServer, RedisServer
from servers.worker import PHALANX, WorkerProcess

END_S = 60.0
SLOW = (sys.executable, str(Path(__file__).parent / "slow_worker.py"))
ENDED = "ended while threads still compute"


def end_impatiently(worker: WorkerProcess, number: signal.Signals) -> int:
    """Send a signal every millisecond until the process is gone; return its status."""
    deadline = time.monotonic() + END_S
    while worker.process.poll() is None and time.monotonic() < deadline:
        worker.signal(number)
        time.sleep(0.001)
    return worker.process.wait(timeout=END_S)


@pytest.fixture
def no_models(tmp_path: Path) -> Path:
    """An empty store: what a worker ends like does not depend on models, and it starts sooner."""
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_further_signals_change_nothing(tmp_path: Path, no_models: Path, number: signal.Signals) -> None:
    """While it drains, while the stores are closed, and while Python goes."""
    worker = WorkerProcess(tmp_path, no_models, {"SERVICES": "similarity", "ANONYMOUS_SCOPES": "vectors"})
    worker.wait_ready()
    assert worker.post("/v1/vectors/similarity", {"a": [1.0], "b": [1.0]})[0] == 200
    assert end_impatiently(worker, number) == 0
    events = [line["event"] for line in worker.lines()]
    assert events[-1] == "stopped"
    assert "draining" in events


def test_further_signals_change_nothing_for_several(
    tmp_path: Path, no_models: Path, postgres: PostgresServer, redis_server: RedisServer
) -> None:
    """The supervisor and its workers; the start has said that nobody can have collections."""
    redis_server.flush()
    command: Sequence[str] = (PHALANX, "serve", "--workers", "2")
    shared = {
        "DATABASE_URL": postgres.create_database(), "REDIS_URL": redis_server.url, "JWT_SECRET": "s" * 40, "AUTH": "off",
    }  # fmt: skip
    worker = WorkerProcess(tmp_path, no_models, shared, command=command)
    (warned,) = [line for line in worker.lines() if "every call about collections" in line.get("event", "")]
    assert "QDRANT_URL" in warned["reason"]
    worker.wait_for_line("accepting")
    assert end_impatiently(worker, signal.SIGTERM) == 0


def test_a_worker_that_is_still_loading_ends_soon(tmp_path: Path, text_models: Path) -> None:
    """All is closed in order; the thread that loads is waited for no longer than a few seconds, and named."""
    worker = WorkerProcess(tmp_path, text_models, {"SERVICES": "text"}, command=SLOW)
    worker.wait_for_line("loading")
    worker.signal(signal.SIGTERM)
    assert worker.process.wait(END_S) == 0
    (stopped, left) = [line for line in worker.lines() if line["event"] in ("stopped", ENDED)]
    assert (stopped["event"], left["event"]) == ("stopped", ENDED)
    assert any(place.startswith("uvloop_0: ") for place in left["threads"])


def test_collections_that_are_asked_for_by_name_are_refused_without_qdrant(tmp_path: Path, no_models: Path) -> None:
    """At the start, with the name of what is lacking."""
    environ = {
        "PATH": "/usr/bin:/bin", "DATA_DIR": str(tmp_path), "MODEL_DIR": str(no_models), "PORT": "0",
        "DATABASE_URL": "postgres://nobody@127.0.0.1:1/none", "REDIS_URL": "redis://127.0.0.1:1/0",
    }  # fmt: skip
    command = (PHALANX, "serve", "collections", "--workers", "2")
    done = subprocess.run(
        command, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=END_S, check=False
    )
    assert (done.returncode, "QDRANT_URL" in done.stderr) == (1, True), done.stderr
