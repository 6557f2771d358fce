from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from phalanx.engines.text.shapes import CALL_COST, TOKEN_BUDGET, group, padded_length, padded_rows


@given(st.integers(1, 8192), st.integers(1, 8192))
def test_a_length_is_rounded_up_and_stays_within_the_limit(length: int, limit: int) -> None:
    padded = padded_length(length, limit)
    assert padded >= length
    assert padded <= max(length, limit)
    assert padded == max(length, limit) or padded % 16 == 0 or padded == 8


def test_there_are_few_shapes() -> None:
    shapes = {
        (padded_rows(rows), padded_length(length, 512))
        for length in range(1, 257)
        for rows in range(1, 65)
        if rows * padded_length(length, 512) <= TOKEN_BUDGET
    }
    assert len(shapes) < 200


@given(st.integers(1, 64))
def test_rows_are_rounded_up_by_a_fifth_at_most(rows: int) -> None:
    assert rows <= padded_rows(rows) <= rows * 1.25


@given(st.lists(st.integers(1, 32).map(lambda n: 16 * n), max_size=150))
def test_groups_hold_everything_once_within_the_budget(lengths: list[int]) -> None:
    groups = list(group(lengths))
    assert sorted(index for indices in groups for index in indices) == list(range(len(lengths)))
    for indices in groups:
        longest = max(lengths[index] for index in indices)
        assert lengths[indices[0]] == longest
        assert len(indices) == 1 or len(indices) * longest <= TOKEN_BUDGET
        assert len(indices) <= 64
        assert sum(longest - lengths[index] for index in indices) <= CALL_COST


def test_texts_of_like_length_run_together() -> None:
    assert list(group([32, 32, 16])) == [[0, 1, 2]]


def test_a_short_text_does_not_run_at_the_length_of_a_long_one() -> None:
    assert list(group([256, 16])) == [[0], [1]]
