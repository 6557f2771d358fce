"""Workers on shared servers, or one alone: started, killed and started again on the same data."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType

from chaos.clients import Caller, Record
from chaos.record import Kill, Outage
from servers import PostgresServer, RedisServer
from servers.worker import PHALANX, START_S, WorkerProcess, make_key

DATABASE, REDIS, LIMITS = "database", "redis", "limits"
LIMITS_LOST, LIMITS_BACK = "each worker limits its share", "limits are shared again"
SERVE = (PHALANX, "serve")
TEXT_MODEL = "all-MiniLM-L6-v2"
NOTHING: Mapping[str, str] = {}
SECRET = "only-for-tests-" * 4


def is_object(line: str) -> bool:
    """Whether a line of a log is one of JSON, whole."""
    return line.startswith("{") and line.endswith("}")


def client_ports(pid: int) -> frozenset[int]:
    """Return the far ports of the TCP connections that a process has accepted, as Linux tells them (proc(5))."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        target = str(entry.readlink())
        if target.startswith("socket:["):
            inodes.add(target[len("socket:[") : -1])
    ports = set()
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[9] in inodes:
            ports.add(int(fields[2].split(":")[1], 16))
    return frozenset(ports)


def process_state(pid: int) -> str:
    """Return the letter by which Linux tells the state of a process: T when it is stopped, X when it is gone (proc(5))."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "X"


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    return process_state(pid) not in "ZX"


def _texts_only(models_dir: Path, folder: Path) -> Path:
    """Return a model store of the text model alone: the others' loading is most of a worker's start."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / TEXT_MODEL).exists():
        (folder / TEXT_MODEL).symlink_to(models_dir / TEXT_MODEL)
    return folder


class Place:
    """Where a worker runs: its name and its folder stay when its process is replaced.

    With more than one of `processes` the process is the supervisor of so many workers, which share the port.
    """

    def __init__(self, name: str, folder: Path, processes: int = 1) -> None:
        self.name = name
        self.folder = folder
        self.processes = processes
        self.process: WorkerProcess | None = None

    @property
    def slots(self) -> list[str]:
        """The names of the workers under the supervisor, none where there is none."""
        return [] if self.processes == 1 else [f"{self.name}/{slot}" for slot in range(1, self.processes + 1)]

    def pid(self, slot: str) -> int:
        """Return the process of a slot that accepts calls, or did last."""
        assert self.process is not None
        label = f"{slot.rpartition('/')[2]}/{self.processes}"
        lines = [line for line in self.process.lines() if line.get("event") == "accepting"]
        return int([line["pid"] for line in lines if line.get("worker") == label][-1])

    def wait_ready(self) -> None:
        """Wait until all its workers are ready."""
        assert self.process is not None
        self.process.wait_ready()
        deadline = time.monotonic() + START_S
        while not all(is_alive(pid) for pid in self._accepting()) or len(self._accepting()) < len(self.slots):
            if time.monotonic() > deadline:
                raise AssertionError(f"not all workers are ready:\n{self.process.log.read_text()[-4000:]}")
            time.sleep(0.05)

    def _accepting(self) -> list[int]:
        """Return the processes that began to accept last, one of each slot that has had any."""
        assert self.process is not None
        latest = {line["worker"]: int(line["pid"]) for line in self.process.lines() if line.get("event") == "accepting"}
        return list(latest.values()) if self.slots else []

    def where(self) -> tuple[str, int] | None:
        """Return host and port, or None while no process listens."""
        return None if self.process is None else (self.process.host, self.process.port)


class Fleet:
    """Workers with a folder each, over PostgreSQL and Redis if there are any, else one with its own SQLite.

    With more than one of `processes` there is a supervisor in each place, over so many workers, any of which may be killed
    by the name of its slot: calls on the connections of the others are answered all the same.

    `command` is what the first one begins with; the others, and all that are started again, serve as users have them.
    `close` ends workers in order; what dead ones left in their journals is taken up first by starting them again.
    """

    def __init__(
        self, folder: Path, models_dir: Path, *, workers: int = 1, processes: int = 1,
        postgres: PostgresServer | None = None, redis: RedisServer | None = None, command: Sequence[str] = SERVE,
        environ: Mapping[str, str] = NOTHING,
    ) -> None:  # fmt: skip
        self.postgres, self.redis = postgres, redis
        names = [f"worker-{number}" for number in range(1, workers + 1)]
        self.places = [Place(name, folder / name, processes) for name in names]
        self.kills: list[Kill] = []
        self.outages: list[Outage] = []
        self._down: dict[str, float] = {}
        self._models_dir = _texts_only(models_dir, folder / "models")
        self._command = command
        self.database_url = f"sqlite:///{self.places[0].folder / 'phalanx.db'}"
        # Half of the work of loading is to warm up for long texts, of which there are none here.
        self.environ = {"JWT_SECRET": SECRET, "MAX_TOKENS": "32", **environ}
        if postgres is not None:
            self.database_url = self.environ["DATABASE_URL"] = postgres.create_database()
        if redis is not None:
            self.environ["REDIS_URL"] = redis.url
        if processes > 1:
            self.environ["WORKERS"] = str(processes)

    async def __aenter__(self) -> Fleet:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill_all()

    async def open(self) -> None:
        """Start all workers at once, as a platform would, over an empty Redis, and wait until they are ready."""
        if self.redis is not None:
            await asyncio.to_thread(self.redis.flush)
        commands = [self._command, *[SERVE] * (len(self.places) - 1)]
        places = zip(self.places, commands, strict=True)
        await asyncio.gather(*(self.start(place.name, command) for place, command in places))
        self.outages.clear()

    def kill_all(self) -> None:
        """Leave no process behind."""
        for place in self.places:
            if place.process is not None:
                place.process.kill()

    def place(self, name: str) -> Place:
        """Return a worker's place."""
        return next(place for place in self.places if place.name == name)

    @property
    def workers(self) -> list[str]:
        """The names of all workers that can be killed."""
        return [name for place in self.places for name in (place.slots or [place.name])]

    @property
    def supervisors(self) -> list[str]:
        """The names of all supervisors."""
        return [place.name for place in self.places if place.slots]

    def worker(self, number: int = 0) -> WorkerProcess:
        """Return a worker that runs."""
        process = self.places[number].process
        assert process is not None
        return process

    async def start(self, name: str, command: Sequence[str] = SERVE) -> None:
        """Start a worker or a server and wait until it serves."""
        if name == DATABASE:
            assert self.postgres is not None
            await asyncio.to_thread(self.postgres.start)
        elif name == REDIS:
            assert self.redis is not None
            await asyncio.to_thread(self.redis.start)
        elif "/" in name:
            # Its supervisor does it, and another one serves meanwhile: that is no outage.
            await asyncio.to_thread(self.place(name.partition("/")[0]).wait_ready)
            return
        else:
            await self._start_worker(self.place(name), command)
        self.outages.append(Outage(name, self._down.pop(name, 0.0), time.time()))

    def kill(self, name: str, record: Record) -> None:
        """Kill a worker or a server now, and note which calls are under way. Waits for its end, but for nothing else."""
        if "/" in name:
            self._kill_slot(name, record)
            return
        place = None if name in (DATABASE, REDIS) else self.place(name)
        at = self._down[name] = time.time()
        self.kills.append(Kill(name, at, record.in_flight(name if place else None), is_worker=place is not None))
        if place is not None:
            assert place.process is not None
            place.process.kill()
            place.process = None
        else:
            server = self.postgres if name == DATABASE else self.redis
            assert server is not None
            server.kill()

    def _kill_slot(self, name: str, record: Record) -> None:
        """Kill one of a supervisor's workers. It is stopped first, so that it cannot take a call more than is known of."""
        place = self.place(name.partition("/")[0])
        pid = place.pid(name)
        os.kill(pid, signal.SIGSTOP)
        while process_state(pid) not in "TZX":
            time.sleep(0.001)
        ports = client_ports(pid)
        self.kills.append(Kill(place.name, time.time(), record.in_flight(place.name, ports)))
        record.lose(ports)
        os.kill(pid, signal.SIGKILL)
        while is_alive(pid):
            time.sleep(0.001)

    def died(self, name: str, record: Record) -> Kill:
        """Note that a worker ended itself, as one does at a kill point. What it did not answer was under way."""
        at = self._down[name] = time.time()
        known = frozenset().union(*(kill.in_flight for kill in self.kills))
        cut = {call.request_id for call in record.calls if call.worker == name and not (call.is_answered or call.left)}
        self.kills.append(Kill(name, at, record.in_flight(name) | (cut - known)))
        self.place(name).process = None
        return self.kills[-1]

    async def close(self) -> None:
        """End all workers in order, so that all they have noted is in the ledger."""
        await asyncio.gather(*(self._adopt(place) for place in self.places if place.process is None))
        statuses = await asyncio.gather(*(asyncio.to_thread(self.stop, place) for place in self.places))
        assert not any(statuses), f"workers ended with {statuses}"

    def stop(self, place: Place) -> int:
        """End a worker in order; returns its exit status. Who calls it meanwhile may find it closed."""
        assert place.process is not None
        since, status = time.time(), place.process.stop()
        place.process = None
        self.outages.append(Outage(place.name, since, time.time()))
        return status

    def make_caller(self, email: str, tier: str = "scale", scopes: Sequence[str] = ("text",)) -> Caller:
        """Make a key, as an operator does."""
        worker = self.worker()
        made = make_key(worker.environ, worker.folder, email, tier=tier, scopes=scopes)
        return Caller(made.key, made.record.id, made.record.organisation)

    def degradations(self) -> list[Outage]:
        """Return when workers went by their shares of the limits, from their logs, as outages of `limits`."""
        found = []
        for log in sorted(path for place in self.places for path in place.folder.glob("worker-*.log")):
            since: dict[str, float] = {}
            for line in map(json.loads, filter(is_object, log.read_text().splitlines())):
                at, worker = datetime.fromisoformat(line["timestamp"]).timestamp(), line.get("worker", "")
                if line["event"] == LIMITS_LOST:
                    since[worker] = at
                # One that was killed has a successor by the same name.
                elif line["event"] in (LIMITS_BACK, "accepting") and worker in since:
                    found.append(Outage(LIMITS, since.pop(worker), at))
            found += [Outage(LIMITS, lost_at, at) for lost_at in since.values()]
        return found

    async def _adopt(self, place: Place) -> None:
        """Start a worker that takes up what a dead one left; without a model, which would be the most of its work."""
        nowhere = place.folder / "no-models"
        place.process = await asyncio.to_thread(WorkerProcess, place.folder, nowhere, self.environ)

    async def _start_worker(self, place: Place, command: Sequence[str]) -> None:
        place.folder.mkdir(parents=True, exist_ok=True)
        process = await asyncio.to_thread(
            WorkerProcess, place.folder, self._models_dir, self.environ, command=command
        )  # fmt: skip
        # From now on it may be called, and killed; that it is not ready yet is a reason for 503.
        place.process = process
        await asyncio.to_thread(place.wait_ready)
