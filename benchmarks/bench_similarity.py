"""Vectors compared: in process, a million searched exactly, and over HTTP.

In process: a pair and one with 1,000, from float32 arrays to the answer. The million: 512-d rows drawn at random and in
clusters, top 10 by cosine, held against a float32 scan of all rows. Over HTTP: one client, with key check and metering, on
1,000 × 512 as binary and as JSON. Times are the best median of several rounds, since other users of a machine only ever add.
"""

from __future__ import annotations

import struct
import sys
import time
from collections.abc import Callable, Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray

from measuring.load import Load, percentile, send
from measuring.report import Row, main, say
from measuring.worker import Worker
from phalanx.contract.vectors import Metric
from phalanx.engines.threads import usable_cpus
from phalanx.engines.vector.index import VectorIndex
from phalanx.engines.vector.reading import read_rows, read_vector
from phalanx.engines.vector.similarity import pair, scores

PAIR_BAR_MS, THOUSAND_BAR_MS, MILLION_BAR_MS = 0.1, 0.5, 60.0
HTTP_PAIR_BAR_MS, HTTP_BINARY_BAR_MS, HTTP_JSON_BAR_MS = 1.0, 3.0, 45.0
DIMENSIONS, CANDIDATES, ROWS, TOP = 512, 1000, 1_000_000, 10
ROUNDS, RUNS, SEARCHES, SECONDS = 5, 100, 12, 1.0
CLUSTERS, SPREAD = 1000, 0.3
AT_ONCE = 50_000
METRICS: tuple[Metric, ...] = ("cosine", "euclidean", "dot")
PATH = "/v1/vectors/similarity"
Vectors = NDArray[np.float32]


def measure() -> list[Row]:
    """Return the rows."""
    return [*_in_process(), *_million("random"), *_million("clustered"), *_over_http()]


def _in_process() -> list[Row]:
    draw = np.random.default_rng(0)
    query, rows = _drawn(draw, 1)[0], _drawn(draw, CANDIDATES)
    other = rows[0]

    def one() -> object:
        return pair(read_vector(query, "a"), read_vector(other, "b"), "cosine")

    found = [_row("a pair by cosine, in process", _best_ms(one, RUNS), PAIR_BAR_MS)]
    for metric in METRICS:

        def many(metric: Metric = metric) -> object:
            return scores(read_vector(query, "query"), read_rows(rows, "candidates"), metric)

        found.append(
            _row(f"{CANDIDATES:,} × {DIMENSIONS} by {metric}, in process", _best_ms(many, RUNS), THOUSAND_BAR_MS)
        )
    return found


def _million(kind: str) -> list[Row]:
    draw = np.random.default_rng(1)
    centres = _drawn(draw, CLUSTERS)
    say(f"{ROWS:,} rows, {kind}")
    index = VectorIndex(_rows(draw, kind, centres), threads=usable_cpus())
    queries = _drawn(draw, SEARCHES) if kind == "random" else _near(draw, centres, SEARCHES)
    times, rescored, right = [], [], 0
    for _ in range(ROUNDS):
        spent = []
        for query in queries:
            began = time.perf_counter()
            index.search(query, TOP)
            spent.append((time.perf_counter() - began) * 1e3)
            rescored.append(index.rescored)
        times.append(float(np.median(spent)))
        say(f"{kind}: {times[-1]:.1f} ms")
    for query in queries:
        right += len(np.intersect1d(index.search(query, TOP).indices, index.search_all(query, TOP).indices))
    name = f"{ROWS:,} × {DIMENSIONS}, {kind}, top {TOP}"
    return [
        _row(name, min(times), MILLION_BAR_MS, f"{usable_cpus()} threads; {np.mean(rescored):,.0f} rows scored in float32"),
        Row(
            claim=f"{name}: recall against float32", measured=right / (TOP * SEARCHES), unit="", better="higher", bar=1.0,
            noise=0.0, note=f"{SEARCHES} searches",
        ),
    ]  # fmt: skip


def _over_http() -> list[Row]:
    draw = np.random.default_rng(2)
    query, rows = _drawn(draw, 1), _drawn(draw, CANDIDATES)
    header = struct.pack("<III", 1, CANDIDATES, DIMENSIONS)
    binary = b"".join((header, query.tobytes(), rows.tobytes()))
    # As doubles: 20 characters a number, which is what clients that compute in double precision send.
    as_json = msgspec.json.encode({"query": _doubles(query)[0], "candidates": _doubles(rows)})
    a_pair = msgspec.json.encode({"a": _doubles(query)[0], "b": _doubles(rows)[0]})
    what = f"{CANDIDATES:,} × {DIMENSIONS}"
    with Worker(scope="vectors") as worker:
        return [
            _sent(worker, f"a pair of {DIMENSIONS} as JSON over HTTP: p50", a_pair, "application/json", HTTP_PAIR_BAR_MS),
            _sent(worker, f"{what} as binary over HTTP: p50", binary, "application/octet-stream", HTTP_BINARY_BAR_MS),
            _sent(worker, f"{what} as JSON over HTTP: p50", as_json, "application/json", HTTP_JSON_BAR_MS),
        ]  # fmt: skip


def _sent(worker: Worker, claim: str, body: bytes, content_type: str, bar: float) -> Row:
    best = float("inf")
    for _ in range(ROUNDS):
        answers = send(
            Load(
                port=worker.port, key=worker.key, path=PATH, content_type=content_type, bodies=[body], repeat=True,
                seconds=SECONDS, warm_up=3,
            )
        )  # fmt: skip
        answers.require_ok()
        best = min(best, percentile(answers.latency_ms, 50))
    say(f"{claim}: {best:.2f} ms")
    return _row(claim, best, bar, f"{len(body) / 1e6:.2f} MB")


def _rows(draw: np.random.Generator, kind: str, centres: Vectors) -> Vectors:
    rows = np.empty((ROWS, DIMENSIONS), np.float32)
    for start in range(0, ROWS, AT_ONCE):
        count = min(AT_ONCE, ROWS - start)
        rows[start : start + count] = _drawn(draw, count) if kind == "random" else _near(draw, centres, count)
    return rows


def _near(draw: np.random.Generator, centres: Vectors, count: int) -> Vectors:
    near: Vectors = centres[draw.integers(0, len(centres), count)] + np.float32(SPREAD) * _drawn(draw, count)
    return near


def _drawn(draw: np.random.Generator, count: int) -> Vectors:
    return draw.standard_normal((count, DIMENSIONS), dtype=np.float32)


def _doubles(rows: Vectors) -> list[list[float]]:
    """The rows' numbers with all the digits of doubles."""
    wide: list[list[float]] = (rows.astype(np.float64) / 3).tolist()
    return wide


def _best_ms(work: Callable[[], object], runs: int) -> float:
    return min(float(np.median(list(_times(work, runs)))) for _ in range(ROUNDS))


def _times(work: Callable[[], object], runs: int) -> Iterator[float]:
    for _ in range(runs):
        began = time.perf_counter()
        work()
        yield (time.perf_counter() - began) * 1e3


def _row(claim: str, measured: float, bar: float, note: str = "") -> Row:
    return Row(claim=claim, measured=measured, unit="ms", better="lower", bar=bar, noise=0.3, note=note)


if __name__ == "__main__":
    sys.exit(main(measure, __doc__))
