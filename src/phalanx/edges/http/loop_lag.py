"""How late the event loop runs what is due: the one number that shows a blocked loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter


class LoopLagProbe:
    """Sleeps `interval_s` again and again, and tells `observe` how many seconds late it woke, never less than 0.

    `start` and `stop` run on the loop that is watched; `is_turning` may be asked from any thread.
    """

    def __init__(self, observe: Callable[[float], None], *, interval_s: float = 0.25) -> None:
        self._observe = observe
        self._interval_s = interval_s
        self._due_at = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to watch the running loop."""
        self._loop = asyncio.get_running_loop()
        self._arm()

    def stop(self) -> None:
        """Watch no longer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def is_turning(self, within_s: float = 5.0) -> bool:
        """Whether the loop is at most `within_s` seconds late now. False when the probe does not run."""
        return self._timer is not None and perf_counter() - self._due_at <= within_s

    def _arm(self) -> None:
        assert self._loop is not None
        self._due_at = perf_counter() + self._interval_s
        self._timer = self._loop.call_later(self._interval_s, self._wake)

    def _wake(self) -> None:
        # uvloop keeps its own clock in milliseconds, so a timer may run up to one early.
        self._observe(max(0.0, perf_counter() - self._due_at))
        self._arm()
