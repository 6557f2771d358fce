"""When a job that was not done is tried again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BACKOFF_S, MAX_BACKOFF_S = 1.0, 60.0
LONGEST_S = 86_400.0
MAX_DEATHS_ALONE = 3
"""How often a job may end the process that runs nothing else."""


def backoff_s(failures: int, wanted: Mapping[str, Any] | float | None = None) -> float:
    """Return the seconds before the attempt that follows `failures` others and this one.

    As the producer says (BullMQ's `backoff`: a number of ms, or fixed or exponential with `delay` in ms), or doubling from one
    to sixty.
    """
    if isinstance(wanted, int | float):
        wanted = {"delay": wanted}
    delay_ms = (wanted or {}).get("delay")
    if isinstance(delay_ms, int | float) and delay_ms >= 0:
        doubled = 2 ** min(failures, 32) if (wanted or {}).get("type") == "exponential" else 1
        return float(min(delay_ms * doubled / 1000, LONGEST_S))
    return float(min(BACKOFF_S * 2 ** min(failures, 32), MAX_BACKOFF_S))
