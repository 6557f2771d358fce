"""How slow a peer may be: a floor on its rate, so that a byte now and then does not hold a connection for ever."""

from __future__ import annotations

import math


class Pace:
    """Watches a transfer through windows of `window_s` seconds. Pure: the caller tells the time, in seconds.

    Two rules, as in Apache's mod_reqtimeout and nginx's timeouts: something moves in any `window_s`, and
    whoever takes longer than one window moves at least `min_rate` bytes per second in each. A transfer of B
    bytes therefore ends within `window_s + B / min_rate`, and a peer that stops is noticed `window_s` after
    its last byte.
    """

    __slots__ = ("_floor", "_moved", "_window_end", "_window_s")

    def __init__(self, window_s: float, min_rate: float) -> None:
        self._window_s = window_s
        self._floor = window_s * min_rate
        self._moved = 0
        self._window_end = math.inf

    def start(self, now: float) -> float:
        """Open a window and return the time at which to ask `judge`."""
        self._moved = 0
        self._window_end = now + self._window_s
        return self._window_end

    def move(self, size: int) -> None:
        """Count bytes that moved."""
        self._moved += size

    def judge(self, now: float, last_moved_at: float) -> float | None:
        """Return the time at which to ask again, or None when the peer is too slow."""
        silent_at = last_moved_at + self._window_s
        if now >= silent_at:
            return None
        if now >= self._window_end:
            if self._moved < self._floor:
                return None
            self.start(now)
        return min(silent_at, self._window_end)
