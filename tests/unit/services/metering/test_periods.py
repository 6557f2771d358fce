"""Months of billing."""

from __future__ import annotations

import pytest

from phalanx.services.metering.periods import month_end, month_of, month_start


@pytest.mark.parametrize(
    ("now", "period"), [(0.0, "1970-01"), (1_767_225_599.9, "2025-12"), (1_767_225_600.0, "2026-01")]
)
def test_an_instant_is_in_its_month(now: float, period: str) -> None:
    """The year turns at midnight UTC."""
    assert month_of(now) == period
    assert month_start(period) <= now < month_end(period)


def test_a_months_end_is_the_next_ones_start() -> None:
    """December too."""
    assert month_end("2026-12") == month_start("2027-01")
    assert month_end("2028-02") - month_start("2028-02") == 29 * 86400
