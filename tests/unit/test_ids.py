"""Identifiers: form, order, uniqueness, and a clock that misbehaves."""

from __future__ import annotations

import threading
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phalanx import ids
from phalanx.ids import Uuid7


class ListedClock:
    """A clock that tells the given times, the last one for ever."""

    def __init__(self, *times: float) -> None:
        self.times = list(times)

    def now(self) -> float:
        return self.times.pop(0) if len(self.times) > 1 else self.times[0]


def milliseconds(text: str) -> int:
    return uuid.UUID(text).int >> 80


def test_an_id_is_a_version_7_uuid_in_canonical_form() -> None:
    text = Uuid7(ListedClock(1_790_000_000.5))()
    parsed = uuid.UUID(text)
    assert str(parsed) == text
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)


@pytest.mark.parametrize("ms", [0, 1, 1_645_557_742_000, 2**48 - 1])
def test_the_first_48_bits_are_the_milliseconds(ms: int) -> None:
    assert milliseconds(Uuid7(ListedClock((ms + 0.5) / 1000))()) == ms


@given(st.lists(st.floats(0, 4_000_000_000), min_size=1, max_size=200))
def test_ids_grow_whatever_the_clock_says(times: list[float]) -> None:
    new = Uuid7(ListedClock(*times))
    made = [new() for _ in range(len(times) + 20)]
    assert made == sorted(set(made))


def test_a_clock_set_back_leaves_the_time_of_ids_where_it_was() -> None:
    new = Uuid7(ListedClock(2_000.0, 1_000.0, 1_999.0, 2_000.001))
    assert [milliseconds(new()) for _ in range(4)] == [2_000_000, 2_000_000, 2_000_000, 2_000_001]


def test_a_counter_that_is_full_moves_on_to_the_next_millisecond(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "COUNTER_BITS", 2)
    new = Uuid7(ListedClock(1.0))
    made = [milliseconds(new()) for _ in range(40)]
    assert made == sorted(made)
    assert made[-1] > 1_000


def test_generators_that_start_in_the_same_millisecond_do_not_meet() -> None:
    made = {Uuid7(ListedClock(1.0))() for _ in range(10_000)}
    assert len(made) == 10_000


def test_threads_get_different_ids() -> None:
    new = Uuid7(ListedClock(1.0))
    made: list[list[str]] = [[] for _ in range(4)]
    threads = [threading.Thread(target=lambda mine=mine: mine.extend(new() for _ in range(5_000))) for mine in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({text for mine in made for text in mine}) == 20_000
    assert all(mine == sorted(mine) for mine in made)
