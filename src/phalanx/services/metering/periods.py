"""Billing periods: months in UTC, written `2026-11`."""

from __future__ import annotations

import calendar
import functools
import time

DAY_S = 86_400


def month_of(now: float) -> str:
    """Return the month of an instant (epoch seconds)."""
    return _month_of_day(int(now // DAY_S))


@functools.lru_cache(maxsize=64)
def _month_of_day(day: int) -> str:
    return time.strftime("%Y-%m", time.gmtime(day * DAY_S))


def month_start(period: str) -> float:
    """Return the epoch second at which a month begins."""
    year, month = (int(part) for part in period.split("-"))
    return float(calendar.timegm((year, month, 1, 0, 0, 0)))


def month_end(period: str) -> float:
    """Return the epoch second at which a month ends, which is the next one's first."""
    year, month = (int(part) for part in period.split("-"))
    return float(calendar.timegm((year + month // 12, month % 12 + 1, 1, 0, 0, 0)))
