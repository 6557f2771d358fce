"""Identifiers that sort by the time they were made."""

from __future__ import annotations

import os
import threading
from typing import Protocol

COUNTER_BITS = 48
_SEED_BYTES = 10


class EpochClock(Protocol):
    """What tells the time of an id."""

    def now(self) -> float:
        """Seconds since the epoch."""
        ...


class Uuid7:
    """Makes UUIDs of version 7 (RFC 9562 §5.7), from any thread, each greater than the one before.

    The first id of a millisecond takes 74 random bits. Those that follow within it count its low 48 bits up by one
    (§6.2, method 2), whose first bit starts as zero so that they have room. When the clock stands still or goes back,
    the last millisecond is counted on. Uniqueness needs no agreement between processes. Not for use across a fork.
    """

    def __init__(self, clock: EpochClock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._last_ms = -1
        self._head = ""
        self._counter = 0

    def __call__(self) -> str:
        """Return a new id in its canonical text form: 36 characters, lower case."""
        ms = int(self._clock.now() * 1000)
        with self._lock:
            self._counter += 1
            if ms > self._last_ms:
                self._begin(ms)
            elif self._counter >> COUNTER_BITS:
                self._begin(self._last_ms + 1)
            return f"{self._head}{self._counter:012x}"

    def _begin(self, ms: int) -> None:
        """Start a millisecond: its time, version and variant, and fresh random bits."""
        self._last_ms = ms
        seed = int.from_bytes(os.urandom(_SEED_BYTES), "big")
        self._counter = seed & ((1 << (COUNTER_BITS - 1)) - 1)
        rand_a = seed >> COUNTER_BITS & 0xFFF
        rand_b = seed >> (COUNTER_BITS + 12) & 0x3FFF
        time = f"{ms:012x}"
        self._head = f"{time[:8]}-{time[8:]}-7{rand_a:03x}-{0x8000 | rand_b:04x}-"
