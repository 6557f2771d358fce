"""Thousands of damaged images against one worker: is every answer a result or the caller's own fault, and is memory flat?

The images are JPEG, PNG, WebP and BMP of every kind that is read, damaged by `tests/mutations.py` from a seed, and sent in
turn to the rows that take images. Good requests come between them, so that a worker which refuses everything does not pass.
Memory is taken after a first part of the run, which fills pools and caches, and again at the end.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from measuring.report import Row, console, say, table
from measuring.worker import HOST, Worker

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from mutations import mutants
from pictures import astronaut, samples, saved

COUNT, SEED, CLIENTS = 10_000, 1, 2
SETTLED = 0.25
"""The part of a run after which memory is first taken."""

GROWTH_BAR_MIB = 16.0
PROCESSING = (
    '?operations=[{"metadata":{}},{"quality":{}},{"resize":{"width":200,"height":200}},{"rotate":{"angle":10}}]'
)
PATHS = (
    "/v1/images/process" + PROCESSING.replace('"', "%22").replace("{", "%7B").replace("}", "%7D"),
    "/v1/faces/detect", "/v1/faces/embed", "/v1/faces/embed?aligned=true",
)  # fmt: skip
EVERY = 50
"""Every so many a good image is sent, to be answered with 200."""


class Tally:
    """What came of the requests; several threads count."""

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        self.codes: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.slowest = (0.0, 0)
        self._lock = threading.Lock()

    def note(self, number: int, status: int, code: str, took_s: float, *, is_good: bool) -> None:
        """Count an answer; status 0 is a connection that broke."""
        with self._lock:
            self.statuses[status] += 1
            self.codes[code] += 1
            self.slowest = max(self.slowest, (took_s, number))
            if status != 200 and (is_good or not 400 <= status < 500):
                self.wrong.append(f"image {number}: {status} {code}")


def fuzz(worker: Worker, count: int, seed: int) -> tuple[Tally, float, float]:
    """Send `count` images; returns the tally, and MiB once settled and at the end."""
    tally, files = Tally(), [*samples().values(), saved(astronaut(), "JPEG"), saved(astronaut()[:300, :300], "WEBP")]
    good = saved(astronaut(), "JPEG")
    await_faces(worker, good)
    source = enumerate(itertools.islice(mutants(files, seed), count))
    lock, settled = threading.Lock(), []

    def take() -> Iterator[tuple[int, bytes]]:
        while True:
            with lock:
                found = next(source, None)
            if found is None:
                return
            if found[0] == int(count * SETTLED):
                settled.append(worker.rss_mib())
            if found[0] % 1000 == 0:
                say(f"{found[0]:,} images: {worker.rss_mib():.0f} MiB, {dict(tally.statuses)}")
            yield found

    def client() -> None:
        connection = http.client.HTTPConnection(HOST, worker.port, timeout=60)
        for number, mutant in take():
            is_good = number % EVERY == 0
            began = time.perf_counter()
            status, code = _send(connection, worker.key, PATHS[number % len(PATHS)], good if is_good else mutant)
            tally.note(number, status, code, time.perf_counter() - began, is_good=is_good)
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return tally, settled[0], worker.rss_mib()


def await_faces(worker: Worker, good: bytes) -> None:
    """Wait until the face models are loaded: a worker is ready when its text model is."""
    connection, until = http.client.HTTPConnection(HOST, worker.port, timeout=60), time.monotonic() + 60
    while any(_send(connection, worker.key, path, good)[0] != 200 for path in PATHS):
        if time.monotonic() > until:
            raise RuntimeError("the face models are not loaded after a minute")
        time.sleep(0.1)
    connection.close()


def _send(connection: http.client.HTTPConnection, key: str, path: str, body: bytes) -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "image/jpeg"}
    try:
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        return 0, repr(error)
    return answer.status, "ok" if answer.status == 200 else str(json.loads(content).get("code", "?"))


def main() -> int:
    """Fuzz one worker and print what came of it; returns 1 when something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=COUNT, help=f"how many images [{COUNT}]")
    parser.add_argument("--seed", type=int, default=SEED, help=f"which images [{SEED}]")
    arguments = parser.parse_args()
    with Worker(scope="faces,images") as worker:
        before = worker.rss_mib()
        began = time.perf_counter()
        tally, settled, after = fuzz(worker, arguments.count, arguments.seed)
        took = time.perf_counter() - began
        status = worker.stop()
    codes = ", ".join(f"{count:,} {code}" for code, count in tally.codes.most_common())
    rows = [
        Row(claim="answers that are neither a result nor the caller's fault", measured=len(tally.wrong), unit="answers",
            better="lower", bar=0, note="; ".join(tally.wrong[:3]) or codes),
        Row(claim="memory's growth once settled", measured=after - settled, unit="MiB", better="lower",
            bar=GROWTH_BAR_MIB, note=f"{before:.0f} MiB before, {settled:.0f} after a quarter, {after:.0f} at the end"),
        Row(claim="the slowest answer", measured=tally.slowest[0], unit="s", better="lower", bar=5.0,
            note=f"image {tally.slowest[1]} of {arguments.count:,}; all in {took:.0f} s, seed {arguments.seed}"),
        Row(claim="exit status after draining", measured=status, unit="", better="lower", bar=0),
    ]  # fmt: skip
    console().print(table(rows, f"{arguments.count:,} damaged images"))
    return int(any(row.verdict == "FAIL" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
