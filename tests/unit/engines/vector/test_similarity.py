"""Comparisons against float64, over numbers of every size that float32 has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from phalanx.contract.vector import Vector
from phalanx.engines.vector.similarity import matrix, nearest, pair, scores
from phalanx.errors import UnreadableInput

METRICS = ("cosine", "euclidean", "dot")
USUAL = st.floats(-1e4, 1e4, width=32)
ANY = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def two_sides(draw: st.DrawFn, numbers: st.SearchStrategy[float]) -> tuple[Vector, Vector]:
    """Two float32 matrices with rows of one length."""
    d, n, m = draw(st.integers(1, 40)), draw(st.integers(1, 6)), draw(st.integers(1, 6))
    rows = [draw(hnp.arrays(np.float32, (count, d), elements=numbers)) for count in (n, m)]
    return rows[0], rows[1]


def expected(left: Vector, right: Vector, metric: str) -> Any:
    """The definition, in float64."""
    wide, other = left.astype(np.float64), right.astype(np.float64)
    if metric == "euclidean":
        return np.linalg.norm(wide[:, None] - other[None], axis=2)
    products = np.einsum("nd,md->nm", wide, other)
    return products if metric == "dot" else products / lengths(left, right)


def lengths(left: Vector, right: Vector) -> Any:
    return np.outer(*(np.linalg.norm(side.astype(np.float64), axis=1) for side in (left, right)))


def allowed(left: Vector, right: Vector, metric: str) -> Any:
    """How far float32 results may be off."""
    if metric == "cosine":
        return 2e-6
    if metric == "dot":
        return 2e-6 * lengths(left, right) + 1e-44
    reach = np.add.outer(*(np.linalg.norm(side.astype(np.float64), axis=1) for side in (left, right)))
    return 2e-7 * reach + 2e-6 * expected(left, right, metric) + 1e-44


@pytest.mark.parametrize("metric", METRICS)
@given(sides=st.one_of(two_sides(USUAL), two_sides(ANY)))
def test_all_forms_agree_with_float64(metric: str, sides: tuple[Vector, Vector]) -> None:
    """A pair, a row and a matrix, of tiny, usual and huge numbers; or an error where there is no answer."""
    left, right = sides
    if metric == "cosine" and not (left.any(axis=1).all() and right.any(axis=1).all()):
        with pytest.raises(UnreadableInput, match="zero vector"):
            matrix(left, right, "cosine")
        return
    wanted, off = expected(left, right, metric), allowed(left, right, metric)
    largest = float(np.finfo(np.float32).max)
    # At the very edge of float32 a result may round either way.
    assume(not (np.abs(np.abs(wanted) - largest) <= off).any())
    if np.abs(wanted).max() > largest:
        with pytest.raises(UnreadableInput, match="beyond float32"):
            matrix(left, right, metric)  # type: ignore[arg-type]
        return
    whole = matrix(left, right, metric)  # type: ignore[arg-type]
    assert whole.dtype == np.float32
    assert (np.abs(whole - wanted) <= off).all()
    rows = np.stack([scores(query, right, metric) for query in left])  # type: ignore[arg-type]
    assert (np.abs(rows - wanted) <= off).all()
    one = pair(left[0], right[0], metric)  # type: ignore[arg-type]
    assert one == pytest.approx(wanted[0, 0], rel=1e-9, abs=1e-12 * float(lengths(left, right)[0, 0]) + 1e-12)


@given(sides=two_sides(USUAL))
def test_a_row_is_at_no_distance_from_itself(sides: tuple[Vector, Vector]) -> None:
    """Exactly none, where differences are taken; within float32's own grain in a matrix."""
    rows, _ = sides
    assert scores(rows[0], rows, "euclidean")[0] == 0
    reach = np.linalg.norm(rows.astype(np.float64), axis=1)
    assert (np.diag(matrix(rows, rows, "euclidean")) <= 1e-7 * reach).all()


def test_close_vectors_far_from_the_origin_are_told_apart() -> None:
    """Squares alone would cancel in float32: the distance is 1 at a length of a million."""
    a = np.full(64, 1e6, np.float32)
    b = a.copy()
    b[0] += 1
    assert scores(a, b[None], "euclidean")[0] == pytest.approx(1.0, rel=1e-6)
    assert matrix(a[None], b[None], "euclidean")[0, 0] == pytest.approx(1.0, rel=1e-3)


def test_long_blocks_are_compared_whole() -> None:
    """More rows than fit one block."""
    draw = np.random.default_rng(0)
    rows, query = draw.standard_normal((3000, 128), dtype=np.float32), draw.standard_normal(128, dtype=np.float32)
    found = scores(query, rows, "euclidean")
    assert np.abs(found - expected(query[None], rows, "euclidean")[0]).max() < 1e-4


def test_a_zero_vector_is_named() -> None:
    rows = np.array([[1, 0], [0, 0]], np.float32)
    with pytest.raises(UnreadableInput, match=r"candidates\[1\] is a zero vector"):
        scores(rows[0], rows, "cosine")
    with pytest.raises(UnreadableInput, match=r"right\[1\] is a zero vector"):
        matrix(rows[:1], rows, "cosine")
    with pytest.raises(UnreadableInput, match=r"^b is a zero vector"):
        pair(rows[0], rows[1], "cosine")
    assert scores(rows[0], rows, "dot").tolist() == [1, 0]


@given(
    found=hnp.arrays(np.float32, st.integers(1, 60), elements=st.integers(-3, 3).map(float)),
    k=st.integers(1, 80),
    metric=st.sampled_from(METRICS),
)
def test_the_nearest_come_first_and_of_equal_ones_the_earlier(found: Vector, k: int, metric: str) -> None:
    """As a stable sort of all would have it."""
    got = nearest(found, k, metric)  # type: ignore[arg-type]
    order = np.argsort(found if metric == "euclidean" else -found, kind="stable")[:k]
    assert got.indices.tolist() == order.tolist()
    assert got.scores.tolist() == found[order].tolist()
