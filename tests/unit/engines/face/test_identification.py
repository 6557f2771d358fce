"""What a threshold means for a search."""

from __future__ import annotations

import pytest

from phalanx.engines.face.identification import false_positive_rate, published_rate


def test_figures_that_are_known() -> None:
    """A false match rate of one in a million: 1 % of searches among 10,000, 9.5 % among 100,000."""
    assert false_positive_rate(1e-6, 10_000) == pytest.approx(0.00995, abs=1e-5)
    assert false_positive_rate(1e-6, 100_000) == pytest.approx(0.09516, abs=1e-5)
    assert false_positive_rate(1e-12, 1) == pytest.approx(1e-12, rel=1e-9)
    assert false_positive_rate(0, 10**6) == false_positive_rate(0.5, 0) == 0
    assert false_positive_rate(1, 3) == 1


def test_what_was_published() -> None:
    assert published_rate("dlib-resnet-v1", 0.6) == pytest.approx(37.2 / 3000)
    assert published_rate("dlib-resnet-v1", 0.5) is None
    assert published_rate("mine", 0.6) is None
