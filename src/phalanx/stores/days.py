"""Days of the ledger: in UTC, written `2026-11-21`, by the instant inside an event's id."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from datetime import date, timedelta
from itertools import groupby

from phalanx.contract.usage import UsageEvent

DAY_S = 86_400
DAY_MS = 1_000 * DAY_S
EPOCH = date(1970, 1, 1)
LAST_DAY = (date.max - EPOCH).days
_begins_as_uuid7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7").match


def day_of(event: UsageEvent) -> str:
    """Return the day on which an event counts. An id that is no UUIDv7 tells none; then its `at` does."""
    text = event.id
    if _begins_as_uuid7(text):
        return _name(int(text[:8] + text[9:13], 16) // DAY_MS)
    return day_at(event.at)


def by_day(events: Sequence[UsageEvent]) -> list[tuple[str, Sequence[UsageEvent]]]:
    """Split events, which are in the order of their ids, by day. All between two ids of a day belong to it."""
    first, last = events[0], events[-1]
    if _begins_as_uuid7(first.id) and _begins_as_uuid7(last.id) and day_of(first) == day_of(last):
        return [(day_of(first), events)]
    return [(day, list(batch)) for day, batch in groupby(events, key=day_of)]


def day_at(instant: float) -> str:
    """Return the day of an instant (epoch seconds)."""
    return _name(int(instant // DAY_S))


def id_bounds(day: str) -> tuple[str, str]:
    """Return what ids of a day are at or above, and below: how those of its first millisecond and the next day's begin."""
    first = (date.fromisoformat(day) - EPOCH).days * DAY_MS
    return _prefix(first), _prefix(first + DAY_MS)


def _prefix(millisecond: int) -> str:
    digits = f"{millisecond:012x}"
    return f"{digits[:8]}-{digits[8:]}"


@functools.lru_cache(maxsize=1024)
def _name(number: int) -> str:
    return (EPOCH + timedelta(days=min(max(number, 0), LAST_DAY))).isoformat()
