"""A supervisor of fake workers as a process of its own, to be killed. It says its port and then its workers' ids."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path

from phalanx.supervisor.supervisor import Patience, Supervisor
from phalanx.telemetry import configure_logs

SILENCE_S = 2.5


async def main() -> int:
    folder = Path(sys.argv[1])
    listener = socket.create_server(("127.0.0.1", 0))
    supervisor = Supervisor(
        [sys.executable, str(Path(__file__).with_name("fake_worker.py")), str(folder)],
        workers=2, listeners=[listener], log=configure_logs(), patience=Patience(silence_s=SILENCE_S),
    )  # fmt: skip
    running = asyncio.create_task(supervisor.run())
    while [worker.accepting for worker in supervisor.workers] != [True, True]:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    print(listener.getsockname()[1], *(worker.pid for worker in supervisor.workers), flush=True)  # noqa: T201
    return await running


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
