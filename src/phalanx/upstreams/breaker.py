"""A circuit breaker: who failed several times in a row is left alone for a while."""

from __future__ import annotations

import time
from collections.abc import Callable

FAILURES = 3
"""In a row, after which the circuit opens."""
PAUSE_S, MAX_PAUSE_S = 1.0, 30.0
"""How long it stays open; each time that its one trial fails twice as long as the last, up to the maximum."""


class Breaker:
    """Of one address. `clock` gives seconds that never go back.

    Closed, it admits everybody; open, nobody; after the pause one call, by whose end it closes or opens again. Whoever
    was admitted calls `begin`, then one of `succeeded`, `failed` and `left`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._open_until: float | None = None
        self._pause_s = PAUSE_S
        self._is_trying = False

    @property
    def is_open(self) -> bool:
        """Whether it failed so often that not everybody is admitted."""
        return self._open_until is not None

    def admits(self) -> bool:
        """Whether a call may go there now."""
        return self._open_until is None or (not self._is_trying and self._clock() >= self._open_until)

    def left_s(self) -> float:
        """Return the seconds until it admits a call; 0 if it does."""
        return 0.0 if self._open_until is None else max(0.0, self._open_until - self._clock())

    def begin(self) -> None:
        """Note that an admitted call goes there."""
        self._is_trying = self._open_until is not None

    def succeeded(self) -> None:
        """Note that it answered, be it with an error: it is there."""
        self._failures, self._open_until, self._pause_s, self._is_trying = 0, None, PAUSE_S, False

    def left(self) -> None:
        """Note that a call ended without saying anything of the address."""
        self._is_trying = False

    def failed(self) -> None:
        """Note that it could not be reached, or went away."""
        self._failures += 1
        if self._is_trying:
            self._pause_s = min(2 * self._pause_s, MAX_PAUSE_S)
        if self._is_trying or self._failures >= FAILURES:
            self._open_until = self._clock() + self._pause_s
        self._is_trying = False
