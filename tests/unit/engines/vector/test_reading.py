"""What numbers are taken, and what is said of the others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from phalanx.engines.vector.reading import read_rows, read_vector, require_equal_sizes
from phalanx.errors import InvalidRequest, UnreadableInput


def test_lists_and_arrays_become_float32() -> None:
    assert read_vector([1.0, 2.5], "a").tolist() == [1, 2.5]
    for rows in ([[1.0, 2.0], [3.0, 4.0]], np.array([[1, 2], [3, 4]], "<f4"), np.array([[1, 2], [3, 4]])):
        read = read_rows(rows, "left")
        assert read.dtype == np.float32
        assert read.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("rows", [[], np.empty((0, 3), np.float32)])
def test_no_rows_are_refused(rows: Any) -> None:
    with pytest.raises(InvalidRequest, match="left is empty"):
        read_rows(rows, "left")


@pytest.mark.parametrize("rows", [[[]], [[], []], np.empty((2, 0), np.float32)])
def test_empty_rows_are_refused(rows: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"left\[0\] is empty"):
        read_rows(rows, "left")
    with pytest.raises(InvalidRequest, match=r"^a is empty"):
        read_vector([], "a")


def test_rows_of_unequal_length_are_refused_with_both_sizes() -> None:
    with pytest.raises(InvalidRequest, match=r"left\[2\] has 1 numbers, left\[0\] has 2") as refused:
        read_rows([[1.0, 2.0], [3.0, 4.0], [5.0]], "left")
    assert refused.value.param == "left"


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e39, -1e300])
def test_what_float32_cannot_hold_is_refused_by_place(bad: float) -> None:
    with pytest.raises(UnreadableInput, match=r"candidates\[1\] has a number"):
        read_rows([[1.0], [bad]], "candidates")
    with pytest.raises(UnreadableInput, match=r"^query has a number"):
        read_vector([bad], "query")


def test_sizes_that_differ_are_both_said() -> None:
    two, three = np.ones((1, 2), np.float32), np.ones((1, 3), np.float32)
    with pytest.raises(InvalidRequest, match="left have 2 numbers, those of right 3"):
        require_equal_sizes(two, three, "left", "right")
