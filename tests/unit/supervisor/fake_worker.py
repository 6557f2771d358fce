"""A worker that serves nothing but its process id: what the supervisor is tested with.

Files in a folder make it behave: `refuse` ends it with that reason, `hold` keeps it from being ready, `linger` from
ending before it is hurried, `deaf` from ending at all. SIGUSR1 stops its event loop.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
import time
from pathlib import Path

import uvloop
from prometheus_client import CollectorRegistry, Counter, Gauge

from phalanx.supervisor.lifeline import Lifeline, open_lifeline
from phalanx.supervisor.sums import snapshot
from phalanx.telemetry import configure_logs

GRACE_S = 0.2
"""Seconds in which connections that were just accepted are answered."""


async def serve(line: Lifeline, folder: Path, listeners: list[socket.socket]) -> None:
    registry = CollectorRegistry()
    calls = Counter("calls", "Calls answered.", registry=registry)
    Gauge("open", "Always 1.", registry=registry).set(1)
    ready = Gauge("phalanx_ready", "Whether it is ready.", registry=registry)
    line.report(lambda: snapshot(registry))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls.inc()
        writer.write(b"%d" % os.getpid())
        writer.close()
        await writer.wait_closed()

    async def become_ready() -> None:
        while (folder / "hold").exists():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        ready.set(1)
        line.update(ready=True)

    becoming = asyncio.create_task(become_ready())
    if not await line.until_accepting():
        return
    servers = [await asyncio.start_server(answer, sock=listener) for listener in listeners]
    line.update(accepting=True)
    how = await line.until_draining()
    becoming.cancel()
    line.update(ready=False, accepting=False)
    for server in servers:
        server.close()
    await asyncio.sleep(GRACE_S)
    (folder / f"drained-{os.getpid()}").write_text("at once" if how.at_once else "with delay")
    if (folder / "linger").exists():
        hurried = asyncio.Event()
        line.on_hurry(hurried.set)
        await hurried.wait()
    while (folder / "deaf").exists():  # noqa: ASYNC110
        await asyncio.sleep(0.05)


async def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--worker", type=int)
    parser.add_argument("--lifeline", type=int)
    parser.add_argument("--listener", type=int, action="append", default=[])
    words = parser.parse_args()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, time.sleep, 60)
    async with open_lifeline(words.lifeline, log=configure_logs()) as line:
        if (words.folder / "refuse").exists():
            line.fail((words.folder / "refuse").read_text())
            return 1
        await serve(line, words.folder, [socket.socket(fileno=fd) for fd in words.listener])
    return 0


if __name__ == "__main__":
    # asyncio's own server drops a connection that it accepts as it is closed.
    sys.exit(uvloop.run(main()))
