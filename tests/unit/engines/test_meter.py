"""Counts and the measured rate."""

from __future__ import annotations

import pytest

from phalanx.engines.meter import BatchFacts, Meter


def facts(padded_tokens: int, engine_s: float) -> BatchFacts:
    return BatchFacts(2, 0, padded_tokens // 2, padded_tokens, (0.0, 0.0), engine_s)


def test_before_the_first_batch_nothing_is_known() -> None:
    meter = Meter()
    assert (meter.batches, meter.tokens_per_s, meter.last_batch_at) == (0, 0.0, None)


def test_batches_are_counted() -> None:
    meter = Meter()
    meter.add(facts(100, 0.1), 5.0)
    meter.add(facts(300, 0.1), 6.0)
    assert (meter.batches, meter.items, meter.tokens, meter.padded_tokens) == (2, 4, 200, 400)
    assert meter.last_batch_at == 6.0


def test_a_small_slow_batch_hardly_moves_the_rate_of_full_ones() -> None:
    meter = Meter()
    for _ in range(50):
        meter.add(facts(1024, 0.040), 0.0)
    meter.add(facts(16, 0.0015), 0.0)
    assert meter.tokens_per_s == pytest.approx(1024 / 0.040, rel=0.01)


def test_the_rate_follows_within_some_twenty_batches() -> None:
    meter = Meter()
    for seconds in [0.010] * 50 + [0.100] * 20:
        meter.add(facts(1000, seconds), 0.0)
    assert 10_000 < meter.tokens_per_s < 12_000


def test_a_batch_that_took_no_time_gives_no_rate() -> None:
    meter = Meter()
    meter.add(facts(16, 0.0), 0.0)
    assert meter.tokens_per_s == 0.0
