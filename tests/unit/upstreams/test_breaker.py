"""The circuit breaker: when it opens, whom it lets try, when it closes."""

from __future__ import annotations

from phalanx.upstreams.breaker import FAILURES, MAX_PAUSE_S, PAUSE_S, Breaker


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def failing(breaker: Breaker, times: int) -> None:
    for _ in range(times):
        breaker.begin()
        breaker.failed()


def test_it_opens_after_several_failures_in_a_row() -> None:
    """A success between them starts the count anew."""
    breaker = Breaker(Clock())
    failing(breaker, FAILURES - 1)
    breaker.begin()
    breaker.succeeded()
    failing(breaker, FAILURES - 1)
    assert breaker.admits()
    failing(breaker, 1)
    assert (breaker.admits(), breaker.is_open, breaker.left_s()) == (False, True, PAUSE_S)


def test_after_the_pause_one_may_try() -> None:
    """By its end the circuit closes, or stays open for twice as long, up to the maximum; one that was left says nothing."""
    clock = Clock()
    breaker = Breaker(clock)
    failing(breaker, FAILURES)
    pause = PAUSE_S
    for _ in range(8):
        clock.now += pause
        assert breaker.admits()
        breaker.begin()
        assert not breaker.admits()
        breaker.left()
        assert breaker.admits()
        failing(breaker, 1)
        pause = min(2 * pause, MAX_PAUSE_S)
        assert breaker.left_s() == pause
    clock.now += pause
    breaker.begin()
    breaker.succeeded()
    assert (breaker.admits(), breaker.is_open, breaker.left_s()) == (True, False, 0.0)
    failing(breaker, FAILURES)
    assert breaker.left_s() == PAUSE_S


def test_late_failures_of_calls_begun_before_do_not_lengthen_the_pause() -> None:
    """Many calls are under way when an address goes: their failures are one failure."""
    breaker = Breaker(Clock())
    for _ in range(20):
        breaker.begin()
    for _ in range(20):
        breaker.failed()
    assert breaker.left_s() == PAUSE_S
