"""A supervisor in this process over fake workers, which are processes of their own."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from prometheus_client import CollectorRegistry

from phalanx.supervisor.process import WorkerProcess
from phalanx.supervisor.supervisor import Patience, Supervisor

WORKER = Path(__file__).with_name("fake_worker.py")
WAIT_S = 20.0


class Events(list[dict[str, Any]]):
    """A log that keeps what it is told."""

    def info(self, event: str, **fields: Any) -> None:
        self.append({"event": event, **fields})

    warning = error = exception = info

    def named(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self if line["event"] == event]


class Fleet:
    """A supervisor that runs while the context is open."""

    def __init__(self, folder: Path, workers: int, patience: Patience, command: Sequence[str]) -> None:
        self.folder = folder
        self.log = Events()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.port = self.listener.getsockname()[1]
        self.supervisor = Supervisor(
            command, workers=workers, listeners=[self.listener], log=self.log, patience=patience
        )  # fmt: skip
        self.registry = CollectorRegistry()
        self.registry.register(self.supervisor.sums)

    async def __aenter__(self) -> Fleet:
        self.running = asyncio.create_task(self.supervisor.run())
        await asyncio.sleep(0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.supervisor.stop()
        self.supervisor.stop()
        await self.running
        self.listener.close()

    @property
    def workers(self) -> list[WorkerProcess]:
        return self.supervisor.workers

    def pids(self) -> list[int]:
        """The ids of the workers that accept."""
        return [worker.pid for worker in self.workers if worker.accepting and worker.pid]

    def behave(self, how: str, content: str = "") -> None:
        (self.folder / how).write_text(content)

    def behave_again(self, how: str) -> None:
        (self.folder / how).unlink()

    async def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline, f"not in time; {self.log}"
            await asyncio.sleep(0.02)

    async def serving(self, count: int = 2) -> list[int]:
        """Wait until so many workers accept; return their ids."""
        await self.until(lambda: len(self.pids()) == count)
        return self.pids()

    async def call(self) -> int:
        """Call whichever worker takes it; return its id."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        answer = await asyncio.wait_for(reader.read(), WAIT_S)
        writer.close()
        return int(answer)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


MakeFleet = Callable[..., Fleet]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A zombie that nobody has reaped yet has ended.
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
