"""What a threshold means for a search: rates, their inverse, bounds of what was counted."""

from __future__ import annotations

import pytest

from phalanx.engines.face.identification import (
    false_positive_rate,
    published_rate,
    rate_bound,
    required_match_rate,
)


def test_figures_that_are_known() -> None:
    """A false match rate of one in a million: 1 % of searches among 10,000, 9.5 % among 100,000."""
    assert false_positive_rate(1e-6, 10_000) == pytest.approx(0.00995, abs=1e-5)
    assert false_positive_rate(1e-6, 100_000) == pytest.approx(0.09516, abs=1e-5)
    assert false_positive_rate(1e-12, 1) == pytest.approx(1e-12, rel=1e-9)
    assert false_positive_rate(0, 10**6) == false_positive_rate(0.5, 0) == 0
    assert false_positive_rate(1, 3) == 1


@pytest.mark.parametrize("count", [1, 7, 1000, 10**6])
@pytest.mark.parametrize("rate", [1e-4, 0.01, 0.5])
def test_the_inverse(count: int, rate: float) -> None:
    assert false_positive_rate(required_match_rate(rate, count), count) == pytest.approx(rate, rel=1e-9)


def test_what_was_published() -> None:
    assert published_rate("dlib-resnet-v1", 0.6) == pytest.approx(37.2 / 3000)
    assert published_rate("dlib-resnet-v1", 0.5) is None
    assert published_rate("mine", 0.6) is None


def test_bounds_of_what_was_counted() -> None:
    assert rate_bound(0, 3_000_000) == 1e-6
    assert rate_bound(0, 0) == rate_bound(0, 2) == 1
    assert rate_bound(10, 1000) == pytest.approx(0.0166, abs=2e-4)
    assert 0.01 < rate_bound(10, 1000) < rate_bound(20, 1000) <= 1
    assert rate_bound(5, 5) == 1
