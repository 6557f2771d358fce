"""Cosine, Euclidean distance and dot product over float32 arrays.

Products are BLAS's in float32, which errs by less than 1e-6 of the vectors' lengths multiplied. Where squares would leave
the range of float32, and where distances in a matrix would cancel, float64 is used instead.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from phalanx.contract.vector import Vector
from phalanx.contract.vectors import Metric
from phalanx.errors import UnreadableInput

SAFE_SQUARES = (1e-30, 1e30)
"""Squared lengths between which sums and products of float32 neither overflow nor lose digits to subnormals."""

BLOCK_NUMBERS = 1 << 17
"""Numbers of a temporary array: 512 KiB stay in the cache of one core."""

Doubles = npt.NDArray[np.float64]


class Nearest(NamedTuple):
    """The nearest rows, nearest first, of equal ones the earlier: indices int64 `[k]` and scores float32 `[k]`."""

    indices: npt.NDArray[np.int64]
    scores: Vector


class Names(NamedTuple):
    """What the two sides are called in errors; a name that ends in `[]` gets the row's number."""

    left: str
    right: str


A_AND_B = Names("a", "b")
ONE_AND_MANY = Names("query", "candidates[]")
LEFT_AND_RIGHT = Names("left[]", "right[]")


def pair(a: Vector, b: Vector, metric: Metric, names: Names = A_AND_B) -> float:
    """Compare `[d]` with `[d]`, in float64. Raises `UnreadableInput` for a cosine with a zero vector."""
    left, right = a.astype(np.float64), b.astype(np.float64)
    if metric == "euclidean":
        return float(np.linalg.norm(left - right))
    if metric == "dot":
        return float(left @ right)
    lengths = require_directions(left[None], names.left)[0] * require_directions(right[None], names.right)[0]
    return float(np.clip(left @ right / lengths, -1.0, 1.0))


def scores(query: Vector, candidates: Vector, metric: Metric, names: Names = ONE_AND_MANY) -> Vector:
    """Compare `[d]` with each row of `[n, d]`; returns float32 `[n]`.

    Raises `UnreadableInput` for a cosine with a zero vector, and for results beyond float32.
    """
    if metric == "euclidean":
        return _distances(query, candidates)
    found: Vector = matrix(query[None], candidates, metric, names)[0]
    return found


def matrix(left: Vector, right: Vector, metric: Metric, names: Names = LEFT_AND_RIGHT) -> Vector:
    """Compare each row of `[n, d]` with each of `[m, d]`; returns float32 `[n, m]`. Raises as `scores`."""
    if metric == "euclidean":
        return _fitting(_distance_matrix(left.astype(np.float64), right.astype(np.float64)))
    squares, other_squares = _squares(left), _squares(right)
    if not (_is_safe(squares) and _is_safe(other_squares)):
        return _wide_matrix(left.astype(np.float64), right.astype(np.float64), metric, names)
    products: Vector = left @ right.T
    if metric == "dot":
        return products
    products /= np.sqrt(squares)[:, None]
    products /= np.sqrt(other_squares)
    return np.clip(products, -1.0, 1.0, out=products)


def nearest(found: Vector, k: int, metric: Metric) -> Nearest:
    """Return the `k` nearest of float32 scores `[n]`, or all when there are fewer."""
    distance = found if metric == "euclidean" else -found
    count = min(k, len(found))
    if count < len(found):
        # Everything as near as the k-th, so that of equal ones the earlier are kept.
        kth = np.partition(distance, count - 1)[count - 1]
        kept = np.flatnonzero(distance <= kth)
    else:
        kept = np.arange(len(found))
    order = kept[np.argsort(distance[kept], kind="stable")][:count]
    return Nearest(order.astype(np.int64), found[order])


def _squares(rows: Vector) -> Vector:
    """Squared lengths `[n]`; infinite where float32 overflows."""
    with np.errstate(over="ignore"):
        found: Vector = np.einsum("ij,ij->i", rows, rows)
    return found


def _is_safe(squares: Vector) -> bool:
    low, high = SAFE_SQUARES
    return bool(squares.min() >= low and squares.max() <= high)


def require_directions(rows: Doubles, name: str, first: int = 0) -> Doubles:
    """Return the lengths `[n]` of rows, which must not be zero. Raises `UnreadableInput`.

    A `name` that ends in `[]` gets the row's number, counted from `first`.
    """
    lengths: Doubles = np.linalg.norm(rows, axis=1)
    zero = np.flatnonzero(lengths == 0)
    if len(zero):
        place = f"{name[:-2]}[{first + int(zero[0])}]" if name.endswith("[]") else name
        said = f"{place} is a zero vector, which has no direction: cosine is not defined for it"
        raise UnreadableInput(said, param=name.removesuffix("[]"))
    return lengths


def _wide_matrix(left: Doubles, right: Doubles, metric: Metric, names: Names) -> Vector:
    if metric == "cosine":
        left = left / require_directions(left, names.left)[:, None]
        right = right / require_directions(right, names.right)[:, None]
        return np.clip(left @ right.T, -1.0, 1.0).astype(np.float32)
    return _fitting(left @ right.T)


def _distances(query: Vector, candidates: Vector) -> Vector:
    """Distances `[n]` from differences, which do not cancel, block by block."""
    found = np.empty(len(candidates), np.float32)
    step = max(1, BLOCK_NUMBERS // len(query))
    work = np.empty((min(step, len(candidates)), len(query)), np.float32)
    low, high = SAFE_SQUARES
    for start in range(0, len(candidates), step):
        block = candidates[start : start + step]
        difference = work[: len(block)]
        with np.errstate(over="ignore"):
            np.subtract(block, query, out=difference)
        squares = _squares(difference)
        if squares.max() > high or difference[squares < low].any():
            wide = block.astype(np.float64) - query
            found[start : start + step] = _fitting(np.linalg.norm(wide, axis=1))
        else:
            found[start : start + step] = np.sqrt(squares)
    return found


def _distance_matrix(left: Doubles, right: Doubles) -> Doubles:
    """Distances `[n, m]` by |a|² + |b|² − 2ab in float64.

    What cancels there is below 1e-7 of the vectors' lengths, and float32 input is no finer than that.
    """
    squared: Doubles = left @ right.T
    squared *= -2.0
    squared += np.einsum("ij,ij->i", left, left)[:, None]
    squared += np.einsum("ij,ij->i", right, right)
    return np.sqrt(np.maximum(squared, 0.0, out=squared), out=squared)


def _fitting(found: Any) -> Vector:
    """Return float64 results as float32. Raises `UnreadableInput` for what does not fit."""
    with np.errstate(over="ignore"):
        narrow: Vector = found.astype(np.float32)
    if not np.isfinite(narrow).all():
        raise UnreadableInput("a result is beyond float32; send smaller numbers, or compare by cosine")
    return narrow
