"""Collections in Qdrant Edge, beside this process: keeping and searching 100,000 × 128, before, while and after the graph is built.

The vectors are as those of faces are: five pictures of each of 20,000 people, which differ in 32 directions and a little in all
128. (Measured, vectors of faces have 10 to 20: Gong, Boddeti and Jain, On the Intrinsic Dimensionality of Image Representations,
2019. A graph finds less where there is less order: of the nearest ten among people who differ in all 128 it found 93 %.) Times are of whole calls,
over the pipe to the engine's process and back, one caller. Each median is the best of several rounds, since other users of a
machine only ever add.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
import uuid
from pathlib import Path

import numpy as np
import structlog
from numpy.typing import NDArray

from measuring.report import Row, main, say
from phalanx.ports import Point
from phalanx.stores.qdrant.edge import EdgeVectorStore

POINTS, DIMENSIONS, AT_ONCE, TOP = 100_000, 128, 500, 10
PEOPLE, DIRECTIONS, SPREAD, NOISE = 20_000, 32, 0.5, 0.1
ROUNDS, SEARCHES = 5, 100
PLAIN_BAR_MS, OPTIMISED_BAR_MS, RECALL_BAR = 4.0, 1.0, 0.99
PLACE = "faces"
Vectors = NDArray[np.float32]


def measure() -> list[Row]:
    """Return the rows."""
    return asyncio.run(_measure())


async def _measure() -> list[Row]:
    draw = np.random.default_rng(0)
    people = draw.standard_normal((PEOPLE, DIRECTIONS), dtype=np.float32)
    directions = draw.standard_normal((DIRECTIONS, DIMENSIONS), dtype=np.float32)
    rows, queries = _pictures(draw, people, directions, POINTS), _pictures(draw, people, directions, SEARCHES)
    with tempfile.TemporaryDirectory(prefix="phalanx-vectors-") as folder:
        store = EdgeVectorStore(Path(folder), log=structlog.get_logger())
        await store.create(PLACE, dimensions=DIMENSIONS, distance="cosine", indexed=["person"])
        found = [await _kept(store, rows)]
        plain_ms, plain_recall = await _searched(store, rows, queries)
        say(f"not optimised: {plain_ms:.2f} ms")
        building_s, slowest_ms = await _built(store, queries)
        say(f"built in {building_s:.0f} s; the slowest search meanwhile took {slowest_ms:.0f} ms")
        built_ms, recall = await _searched(store, rows, queries)
        found += [
            _row("search while there is no graph: p50", plain_ms, "ms", PLAIN_BAR_MS, f"recall {plain_recall:.4f}"),
            _row("search once the graph is built: p50", built_ms, "ms", OPTIMISED_BAR_MS, "nearest 10"),
            Row(claim="recall once the graph is built", measured=recall, unit="", better="higher", bar=RECALL_BAR, noise=0.005),
            _row("slowest search while it is built", slowest_ms, "ms", None, f"it took {building_s:.0f} s, at the lowest priority"),
            _row("memory of the engine's process", _resident_mb(store.pid), "MB", None, "of it the vectors are 51 MB, mapped"),
        ]  # fmt: skip
        await store.close()
    return found


async def _kept(store: EdgeVectorStore, rows: Vectors) -> Row:
    batches = [
        [Point(_name(n), rows[n], {"person": f"p{n % PEOPLE}", "at": n}) for n in range(first, first + AT_ONCE)]
        for first in range(0, POINTS, AT_ONCE)
    ]
    began = time.perf_counter()
    for batch in batches:
        await store.upsert(PLACE, batch)
    rate = POINTS / (time.perf_counter() - began)
    say(f"{rate:,.0f} points/s")
    return Row(
        claim=f"points kept, {AT_ONCE} a call", measured=rate, unit="points/s", better="higher", noise=0.3,
        note="each call is in the log before it is acknowledged",
    )  # fmt: skip


async def _searched(store: EdgeVectorStore, rows: Vectors, queries: Vectors) -> tuple[float, float]:
    """Return the best median of several rounds in ms, and the recall of the nearest ten."""
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    best, right = float("inf"), 0
    for _ in range(ROUNDS):
        spent = []
        for query in queries:
            began = time.perf_counter()
            await store.search(PLACE, query, limit=TOP)
            spent.append((time.perf_counter() - began) * 1e3)
        best = min(best, float(np.median(spent)))
    for query in queries:
        nearest = set(np.argpartition(-(units @ query), TOP)[:TOP].tolist())
        right += len(nearest & {hit.payload["at"] for hit in await store.search(PLACE, query, limit=TOP)})
    return best, right / (TOP * len(queries))


async def _built(store: EdgeVectorStore, queries: Vectors) -> tuple[float, float]:
    """Wait for the graph, searching all the while. Returns how long it took in s, and the slowest search in ms."""
    began, slowest, n = time.perf_counter(), 0.0, 0
    while True:
        in_index, is_building = await store.optimised(PLACE)
        if in_index and not is_building:
            return time.perf_counter() - began, slowest
        asked = time.perf_counter()
        await store.search(PLACE, queries[n % SEARCHES], limit=TOP)
        slowest, n = max(slowest, (time.perf_counter() - asked) * 1e3), n + 1
        await asyncio.sleep(0.02)


def _pictures(draw: np.random.Generator, people: Vectors, directions: Vectors, count: int) -> Vectors:
    of = people[draw.integers(0, len(people), count)]
    of = of + np.float32(SPREAD) * draw.standard_normal(of.shape, dtype=np.float32)
    noise = np.float32(NOISE * DIRECTIONS**0.5) * draw.standard_normal((count, DIMENSIONS), dtype=np.float32)
    pictures: Vectors = of @ directions + noise
    return pictures


def _name(n: int) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, str(n)))


def _resident_mb(pid: int | None) -> float:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1e3


def _row(claim: str, measured: float, unit: str, bar: float | None, note: str) -> Row:
    return Row(claim=claim, measured=measured, unit=unit, better="lower", bar=bar, noise=0.3, note=note)


if __name__ == "__main__":
    sys.exit(main(measure, __doc__))
