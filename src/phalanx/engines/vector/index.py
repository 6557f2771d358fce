"""Exact search for the nearest of many vectors, in memory.

An int8 copy of the rows is scanned first. It brackets every row's score: with row v = ṽ + e and query x = x̃ + f, where
ṽ and x̃ are what int8 keeps, the product v·x differs from ṽ·x̃ by e·x + ṽ·f, at most |e||x| + |ṽ||f| (Cauchy and Schwarz). A
row whose upper bound is below the k-th best lower bound cannot be among the nearest k; all others are scored in float32.
So the result is that of a float32 scan, whatever the data; only the number of rows scored twice depends on them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from phalanx.contract.vector import Vector
from phalanx.contract.vectors import Metric
from phalanx.engines.backends.scan import BLOCK_BYTES, InexactProducts, Int8Scan
from phalanx.engines.vector.reading import Numbers, read_rows, read_vector, require_equal_sizes
from phalanx.engines.vector.similarity import Nearest, nearest, require_directions, scores

STEPS = 127
"""Symmetric int8: −127..127, so that a vector and its opposite are rounded alike."""

ROUNDING = 4e-6
"""What float32 sums may add to the bounds, in units of the lengths multiplied."""

MIN_SCANNED = 1 << 22
"""Numbers from which the int8 scan is made: 16 MiB of float32. Fewer are quickly scored at once."""

GROUPS = 1024
"""Groups of rows whose best lower bounds stand for all when the k-th best is looked for."""

MAX_SHARE = 0.1
"""Share of the rows from which scoring all in order is quicker than gathering."""

SCORED_AT_ONCE = 1 << 16


class VectorIndex:
    """Float32 rows `[n, d]` and their int8 copy: five bytes a number. For cosine the rows are normalised once.

    Raises what `read_rows` raises, and `UnreadableInput` for a zero vector under cosine. `threads` is of the int8 scan;
    the float32 one runs on BLAS's own. Where int8 products are not exact, there is float32 only.
    """

    def __init__(self, vectors: Vector, *, metric: Metric = "cosine", threads: int = 2) -> None:
        rows = read_rows(vectors, "vectors")
        self.metric = metric
        self._rows = _unit(rows, "vectors[]") if metric == "cosine" else rows
        self._brackets = _brackets(self._rows, metric, threads) if rows.size >= MIN_SCANNED else None
        self.rescored = 0

    def __len__(self) -> int:
        return len(self._rows)

    def search(self, query: Numbers, k: int) -> Nearest:
        """Return the `k` rows nearest to `[d]`, nearest first, of equal ones the earlier; `rescored` says how many were close.

        Raises what `read_vector` and `require_equal_sizes` raise, and `UnreadableInput` for a zero vector under cosine.
        """
        target = self._target(query)
        close = self._brackets.candidates(target, min(k, len(self))) if self._brackets else None
        if close is None or len(close) > MAX_SHARE * len(self):
            self.rescored = len(self)
            return nearest(self._scores(target, None), k, self.metric)
        self.rescored = len(close)
        found = nearest(self._scores(target, close), k, self.metric)
        return Nearest(close[found.indices], found.scores)

    def search_all(self, query: Numbers, k: int) -> Nearest:
        """Return the same from a float32 scan of all rows: what `search` is held against. Raises as it does."""
        return nearest(self._scores(self._target(query), None), k, self.metric)

    def _target(self, query: Numbers) -> Vector:
        target = read_vector(query, "query")
        require_equal_sizes(target, self._rows, "query", "the index")
        return _unit(target[None], "query")[0] if self.metric == "cosine" else target

    def _scores(self, target: Vector, chosen: npt.NDArray[np.int64] | None) -> Vector:
        """Scores of the chosen rows, or of all, some at a time so that no second copy of all is made."""
        # Rows of length 1 need no second division, and their product is their cosine.
        metric: Metric = "dot" if self.metric == "cosine" else self.metric
        count = len(self) if chosen is None else len(chosen)
        parts = []
        for start in range(0, count, SCORED_AT_ONCE):
            part = slice(start, start + SCORED_AT_ONCE)
            parts.append(scores(target, self._rows[part if chosen is None else chosen[part]], metric))
        return np.concatenate(parts)


class _Brackets:
    """The int8 copy, and what it takes to bound each row's score from both sides.

    A score here is the product less half the row's square for Euclidean distance, which orders rows as distance does.
    """

    def __init__(self, rows: Vector, metric: Metric, threads: int) -> None:
        count = len(rows)
        self._steps, self._lost, self._lengths = (np.empty(count, np.float32) for _ in range(3))
        self._offsets = np.empty(count, np.float32) if metric == "euclidean" else None
        self._scan = Int8Scan(self._quantised(rows), threads=threads)

    def candidates(self, target: Vector, k: int) -> npt.NDArray[np.int64]:
        """Return the indices, ascending, of all rows that may be among the nearest `k`."""
        whole, step, lost = quantise(target[None])
        kept = float(np.linalg.norm(whole.astype(np.float64))) * float(step[0])
        length = float(np.linalg.norm(target.astype(np.float64)))
        score = self._scan.products(whole[0])
        score *= self._steps
        score *= step[0]
        margin = self._lost * np.float32(length)
        margin += self._lengths * np.float32(float(lost[0]) + ROUNDING * max(length, kept))
        if self._offsets is not None:
            score -= self._offsets
            margin += self._offsets * np.float32(ROUNDING)
        score -= margin
        floor = _kth_best(score, k)
        margin *= 2
        score += margin
        # The sum of lower bound and twice the margin is rounded too.
        return np.flatnonzero(score >= floor - abs(floor) * ROUNDING)

    def _quantised(self, rows: Vector) -> Iterator[npt.NDArray[np.int8]]:
        size = max(1, BLOCK_BYTES // rows.shape[1])
        for start in range(0, len(rows), size):
            part = slice(start, start + size)
            whole, self._steps[part], self._lost[part] = quantise(rows[part])
            lengths = np.linalg.norm(rows[part], axis=1)
            self._lengths[part] = lengths + self._lost[part]
            if self._offsets is not None:
                self._offsets[part] = lengths * lengths / 2
            yield whole


def _brackets(rows: Vector, metric: Metric, threads: int) -> _Brackets | None:
    try:
        return _Brackets(rows, metric, threads)
    except InexactProducts:
        return None


def quantise(rows: Vector) -> tuple[npt.NDArray[np.int8], Vector, Vector]:
    """Round float32 `[n, d]` to int8 with one step a row; returns int8 `[n, d]`, steps `[n]` and the lengths lost `[n]`."""
    step = np.abs(rows).max(axis=1) / np.float32(STEPS)
    step[step == 0] = 1.0
    exact = rows / step[:, None]
    whole = np.rint(exact)
    exact -= whole
    lost = np.linalg.norm(exact, axis=1) * step
    return np.clip(whole, -STEPS, STEPS).astype(np.int8), step, lost * np.float32(1 + ROUNDING)


def _kth_best(lower: Vector, k: int) -> float:
    """Return a value that at least `k` lower bounds reach: the k-th best of the groups' best, close to the k-th best of all."""
    size = max(1, len(lower) // GROUPS)
    best = np.maximum.reduceat(lower, np.arange(0, len(lower), size))
    among = best if len(best) >= k else lower
    return float(np.partition(among, len(among) - k)[len(among) - k])


def _unit(rows: Vector, name: str) -> Vector:
    """Return rows of length 1. Raises `UnreadableInput` for a zero vector."""
    unit = np.empty_like(rows)
    for start in range(0, len(rows), SCORED_AT_ONCE):
        part = slice(start, start + SCORED_AT_ONCE)
        wide = rows[part].astype(np.float64)
        unit[part] = wide / require_directions(wide, name, start)[:, None]
    return unit
