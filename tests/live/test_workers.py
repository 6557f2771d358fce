"""`phalanx serve --workers 2` on PostgreSQL and Redis: one socket, summed metrics, workers that come and go."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from servers import PostgresServer, RedisServer
from servers.worker import PHALANX, START_S, WorkerProcess

TEXT = "all-MiniLM-L6-v2"
EMBED = "/v1/text/embed"
ANSWERED = 'phalanx_requests_total{code="ok",dialect="canonical",operation="text.embed"}'
REDIS_NUMBER = 9


class Supervised(WorkerProcess):
    """A supervisor with its workers."""

    def series(self, name: str) -> float:
        """The value of one series; 0 when it is not there."""
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.metrics(), re.MULTILINE)
        return float(found[1]) if found else 0.0

    def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + START_S
        while not condition():
            assert time.monotonic() < deadline, self.log.read_text()[-4000:]
            time.sleep(0.05)

    def pids(self) -> list[int]:
        """The ids of the workers that have begun to accept, in this order."""
        return [line["pid"] for line in self.lines() if line.get("event") == "accepting"]

    def wait_for(self, ready: int) -> None:
        self.until(lambda: self.series('phalanx_workers{state="ready"}') == ready)


@pytest.fixture
def supervised(
    text_models: Path, tmp_path: Path, postgres: PostgresServer, redis_server: RedisServer
) -> Iterator[Supervised]:
    """Two workers that are ready."""
    yield from run(tmp_path, text_models, postgres, redis_server)


@pytest.fixture
def impatient(
    text_models: Path, tmp_path: Path, postgres: PostgresServer, redis_server: RedisServer
) -> Iterator[Supervised]:
    """Two workers that are soon taken for stuck."""
    yield from run(tmp_path, text_models, postgres, redis_server, WORKER_TIMEOUT_SECS="2")


def run(
    folder: Path, text_models: Path, postgres: PostgresServer, redis_server: RedisServer, **environ: str
) -> Iterator[Supervised]:
    shared = {
        "DATABASE_URL": postgres.create_database(),
        "REDIS_URL": redis_server.url.removesuffix("/0") + f"/{REDIS_NUMBER}",
        "JWT_SECRET": "for-tests-only-" * 4,
    }
    running = Supervised(folder, text_models, {**shared, **environ}, command=(PHALANX, "serve", "--workers", "2"))
    try:
        running.wait_for(2)
        yield running
        if running.process.poll() is None:
            assert running.stop() == 0
    finally:
        running.kill()
    assert "Traceback" not in running.log.read_text()


class Load:
    """Clients that ask without a pause, each on connections of its own, until told to stop."""

    def __init__(self, worker: Supervised, key: str, clients: int = 4) -> None:
        self.statuses: Counter[int] = Counter()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(worker, key, number)) for number in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self, worker: Supervised, key: str, number: int) -> None:
        count = 0
        while not self._stop.is_set():
            count += 1
            status, _ = worker.post(EMBED, {"texts": [f"client {number} says {count}"]}, key)
            self.statuses[status] += 1

    def stop(self) -> Counter[int]:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=30)
        return self.statuses


def test_workers_share_port_metrics_and_processors(supervised: Supervised) -> None:
    """Both answer; one exposition has the sum; lines say whose they are; the engines share the processors."""
    key = supervised.key()
    ids = {json.loads(supervised.get("/info")[1])["worker_id"].rsplit("-", 1)[1] for _ in range(50)}
    assert ids <= set(map(str, supervised.pids()))
    for number in range(20):
        assert supervised.post(EMBED, {"texts": [f"text {number}"]}, key)[0] == 200
    supervised.until(lambda: supervised.series(ANSWERED) == 20)
    assert supervised.series("phalanx_ready") == 1
    assert supervised.series("process_resident_memory_bytes") > 2 * 100 * 2**20
    assert supervised.metrics().count("# TYPE phalanx_requests_total counter") == 1
    requests = [line for line in supervised.lines() if line.get("event") == "request" and line.get("route") == EMBED]
    assert len(requests) == 20
    assert {line["worker"] for line in requests} <= {"1/2", "2/2"}
    loaded = [line for line in supervised.lines() if line.get("event") == "model ready" and line["model"] == TEXT]
    assert {line["worker"] for line in loaded} == {"1/2", "2/2"}
    assert sum(line["threads"] for line in loaded) <= max(2, len(os.sched_getaffinity(0)))


def test_a_killed_worker_is_replaced_and_its_counts_stay(supervised: Supervised) -> None:
    """The other one serves on, and no new connection meets one that cannot serve."""
    key = supervised.key()
    for number in range(10):
        supervised.post(EMBED, {"texts": [f"text {number}"]}, key)
    supervised.until(lambda: supervised.series(ANSWERED) == 10)
    first = supervised.pids()
    load = Load(supervised, key, clients=1)
    os.kill(first[0], signal.SIGKILL)
    supervised.until(lambda: len(supervised.pids()) == 3)
    supervised.wait_for(2)
    statuses = load.stop()
    assert statuses[200] + 1 >= statuses.total()
    assert set(statuses) <= {200, 0}
    assert supervised.series(ANSWERED) >= 10
    assert supervised.series('phalanx_worker_ends_total{reason="itself"}') == 1


def test_a_stuck_worker_is_replaced(impatient: Supervised) -> None:
    """Stopped by a signal, its event loop does not turn."""
    os.kill(impatient.pids()[0], signal.SIGSTOP)
    impatient.until(lambda: len(impatient.pids()) == 3)
    assert impatient.series('phalanx_worker_ends_total{reason="stuck"}') == 1


def test_a_rolling_restart_refuses_nobody(supervised: Supervised) -> None:
    """SIGHUP under load: all calls are answered, and both workers are new."""
    load = Load(supervised, supervised.key(), clients=2)
    supervised.signal(signal.SIGHUP)
    supervised.wait_for_line("rolling restart ends")
    statuses = load.stop()
    assert set(statuses) == {200}
    assert len(set(supervised.pids())) == 4
    supervised.until(lambda: supervised.series(ANSWERED) == statuses[200])


def test_a_stop_under_load_cuts_nobody_off(supervised: Supervised) -> None:
    """SIGTERM to the supervisor: what was accepted is answered, then nobody listens."""
    load = Load(supervised, supervised.key(), clients=2)
    time.sleep(1.0)
    assert supervised.stop() == 0
    statuses = load.stop()
    assert set(statuses) <= {200, 0}
    assert statuses[200] > 10
    stopped = [line for line in supervised.lines() if line["event"] == "stopped"]
    assert len(stopped) == 3


def test_workers_do_not_outlive_their_supervisor(supervised: Supervised) -> None:
    """kill -9: they let go of the port, so that another supervisor can have it, and end."""
    pids = supervised.pids()
    supervised.kill()
    supervised.until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    with socket.create_server((supervised.host, supervised.port)):
        pass
