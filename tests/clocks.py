"""A clock for tests."""

from __future__ import annotations

from datetime import UTC, datetime


class HandClock:
    """Time that stands still until a test moves it. Seconds; the wall clock can go backwards, `uptime` cannot."""

    def __init__(self, *, uptime: float = 5_000.0) -> None:
        self.epoch = 1_790_000_000.0
        self.uptime = uptime

    def now(self) -> float:
        return self.epoch

    def monotonic(self) -> float:
        return self.uptime

    def advance(self, seconds: float) -> None:
        self.epoch += seconds
        self.uptime += max(0.0, seconds)

    @property
    def month(self) -> str:
        return datetime.fromtimestamp(self.epoch, UTC).strftime("%Y-%m")
