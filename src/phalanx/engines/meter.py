"""What a runner tells about itself: one batch, its counts, its rate."""

from __future__ import annotations

from typing import NamedTuple

RATE_MEMORY = 0.9
"""How much of the measured rate each batch leaves in place: the last ten batches or so decide it."""


class BatchFacts(NamedTuple):
    """One batch, for metrics: `tokens` without padding, `queue_s` of each item, `engine_s` of the whole."""

    items: int
    failed: int
    tokens: int
    padded_tokens: int
    queue_s: tuple[float, ...]
    engine_s: float


class RunnerStats(NamedTuple):
    """The queue now and what was computed so far.

    `waiting_tokens`, `padded_tokens` and `tokens_per_s` (of engine time, lately; 0 before the first batch)
    count padding, `tokens` does not. `last_batch_at` and `busy_since` are monotonic seconds, or None.
    """

    waiting_items: int
    waiting_tokens: int
    running_items: int
    batches: int
    items: int
    tokens: int
    padded_tokens: int
    tokens_per_s: float
    last_batch_at: float | None
    busy_since: float | None

    @property
    def padding_ratio(self) -> float:
        """The share of the computed tokens that was padding, 0 to 1."""
        return 1.0 - self.tokens / self.padded_tokens if self.padded_tokens else 0.0


class Meter:
    """Counts batches. The rate is a ratio of two decaying sums, so that a small batch weighs little."""

    def __init__(self) -> None:
        self.batches = self.items = self.tokens = self.padded_tokens = 0
        self.last_batch_at: float | None = None
        self._recent_tokens = self._recent_s = 0.0

    def add(self, facts: BatchFacts, now: float) -> None:
        """Count a batch that ended at `now` (monotonic seconds)."""
        self.batches += 1
        self.items += facts.items
        self.tokens += facts.tokens
        self.padded_tokens += facts.padded_tokens
        self.last_batch_at = now
        self._recent_tokens = RATE_MEMORY * self._recent_tokens + facts.padded_tokens
        self._recent_s = RATE_MEMORY * self._recent_s + facts.engine_s

    @property
    def tokens_per_s(self) -> float:
        """Padded tokens a second of engine time over the last batches; 0 before the first."""
        return self._recent_tokens / self._recent_s if self._recent_s > 0 else 0.0
