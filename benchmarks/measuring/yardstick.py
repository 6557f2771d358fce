"""Fixed pieces of work by which runs on machines of different speed are compared."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from measuring.cores import pinned
from measuring.load import Load, percentile, send

TRIVIAL = Path(__file__).with_name("trivial.py")


@contextmanager
def trivial_server(cores: Sequence[int] | None = None) -> Iterator[int]:
    """Run the trivial server; yields its port."""
    with pinned(cores):
        process = subprocess.Popen([sys.executable, TRIVIAL], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


def trivial_latency_ms(requests: int = 4000) -> tuple[float, float]:
    """Return p50 and p99 of one client of the trivial server, in milliseconds."""
    with trivial_server() as port:
        found = send(Load(port=port, bodies=[b'{"text":"Hello world"}'] * requests, warm_up=200))
    return percentile(found.latency_ms, 50), percentile(found.latency_ms, 99)


def trivial_rate(server: Sequence[int], client: Sequence[int], connections: int = 16, seconds: float = 2.0) -> float:
    """Return the requests a second of the trivial server on `server` cores, the generator on `client` cores."""
    with trivial_server(server) as port:
        load = Load(
            port=port, bodies=[b'{"text":"Hello world"}'], repeat=True, connections=connections, seconds=seconds,
            cores=list(client),
        )  # fmt: skip
        return send(load).rate


def python_start_s(modules: str = "numpy, ssl, sqlite3, asyncio") -> float:
    """Return the seconds that a Python needs to start and import some modules: the least of three."""

    def once() -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {modules}"], check=True)
        return time.perf_counter() - began

    return min(once() for _ in range(3))
