"""Load on a server: what to send, and what came of it. The sending is done by `generator.py`, a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

GENERATOR = Path(__file__).with_name("generator.py")


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """Requests over kept connections; each connection has one under way at a time.

    `bodies` are sent in order by whichever connection is free, over and over when `repeat` is set. It ends after
    `seconds`, or when the bodies are used up. The first `warm_up` answers are not counted. With `patient`, whoever
    is refused with `Retry-After` waits that long before its next request, as a well-behaved client does. All
    connections are open before the first request is sent. `cores` pins the generator.
    """

    port: int
    bodies: list[bytes]
    path: str = "/v1/embed"
    content_type: str = "application/json"
    host: str = "127.0.0.1"
    key: str = ""
    connections: int = 1
    seconds: float = 60.0
    repeat: bool = False
    warm_up: int = 0
    patient: bool = False
    cores: list[int] | None = None


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One row an answer, in the order in which they came; a failed connection is status 0.

    `answers` holds float64 rows: seconds at which the request was sent, milliseconds to its answer, status,
    `Retry-After` in seconds, then `Server-Timing`'s queue, engine and total in milliseconds; NaN where absent.
    """

    answers: bytes
    elapsed_s: float
    cpu_s: float

    def table(self) -> NDArray[np.float64]:
        """Return the rows."""
        return np.frombuffer(self.answers, dtype=np.float64).reshape(-1, 7)


class Answers:
    """The columns of an outcome, named."""

    def __init__(self, outcome: Outcome) -> None:
        rows = outcome.table()
        self.elapsed_s = outcome.elapsed_s
        self.cpu_s = outcome.cpu_s
        self.sent_s, self.latency_ms = rows[:, 0], rows[:, 1]
        self.status = rows[:, 2].astype(np.int64)
        self.retry_after_s = rows[:, 3]
        self.queue_ms, self.engine_ms, self.total_ms = rows[:, 4], rows[:, 5], rows[:, 6]

    def __len__(self) -> int:
        return len(self.status)

    def count(self, status: int) -> int:
        """Return how many answers had this status."""
        return int((self.status == status).sum())

    def statuses(self) -> dict[int, int]:
        """Return how many answers had each status."""
        found, counts = np.unique(self.status, return_counts=True)
        return {int(status): int(count) for status, count in zip(found, counts, strict=True)}

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return self.count(200) / self.elapsed_s

    def require_ok(self) -> None:
        """Raise `RuntimeError` unless every answer was a 200: a latency of errors is no measurement."""
        if len(self) == 0 or self.statuses() != {200: len(self)}:
            raise RuntimeError(f"the worker answered {self.statuses()} where 200 was expected")


def percentile(values: NDArray[np.float64], q: float) -> float:
    """Return the q-th percentile (0 to 100)."""
    return float(np.percentile(values, q))


class Running:
    """A generator under way."""

    def __init__(self, load: Load) -> None:
        self._process = subprocess.Popen([sys.executable, GENERATOR], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.msgpack.encode(load))
        self._process.stdin.close()

    def finish(self) -> Answers:
        """Wait for its end. Raises `RuntimeError` when the generator itself failed."""
        assert self._process.stdout is not None
        raw = self._process.stdout.read()
        self._process.stdout.close()
        if self._process.wait() != 0:
            raise RuntimeError("the load generator failed; its own words are above")
        return Answers(msgspec.msgpack.decode(raw, type=Outcome))


def send(load: Load) -> Answers:
    """Send a load and return what came of it."""
    return Running(load).finish()


def json_bodies(texts: Sequence[str]) -> list[bytes]:
    """Return the bodies of `POST /v1/embed` for texts."""
    return [msgspec.json.encode({"text": text}) for text in texts]
