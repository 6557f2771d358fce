"""The machine's clock."""

from __future__ import annotations

import time


class SystemClock:
    """The clock that a worker runs by."""

    def now(self) -> float:
        """Seconds since the epoch; goes back when the machine's clock is set back."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds that never go backwards, from an arbitrary start."""
        return time.monotonic()
