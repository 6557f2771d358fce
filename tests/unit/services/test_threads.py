"""Threads with a bound: how many work, how many wait, and what becomes of the rest."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from typing import Any

import pytest

from clocks import HandClock
from phalanx.errors import Overloaded
from phalanx.services.threads import BoundedThreads, Load

AT_ONCE, WAITING = 2, 3


class Admitted:
    def __init__(self, deadline: float = math.inf) -> None:
        self.deadline = deadline


async def begin(threads: Any, work: Callable[[], Any], cost: int = 0, deadline: float = math.inf) -> Any:
    """Do work for which there is room."""
    threads.require(Admitted(deadline), cost)
    return await threads.run(Admitted(deadline), work, cost=cost)


def test_as_many_work_and_wait_as_may() -> None:
    """One more is refused with when to come back, and there is room once they are done."""

    async def scenario() -> None:
        threads: Any = BoundedThreads("vectors", HandClock(), at_once=AT_ONCE, max_waiting=WAITING)
        go, started, running = threading.Event(), threading.Semaphore(0), []

        def work() -> None:
            running.append(threading.current_thread().name)
            started.release()
            go.wait(5)

        tasks = [asyncio.create_task(begin(threads, work)) for _ in range(AT_ONCE + WAITING)]
        await asyncio.sleep(0)
        for _ in range(AT_ONCE):
            assert await asyncio.to_thread(started.acquire, timeout=5)
        assert len(running) == AT_ONCE
        with pytest.raises(Overloaded, match="too many vectors") as refused:
            await begin(threads, work)
        assert refused.value.retry_after_s
        go.set()
        await asyncio.gather(*tasks)
        assert await begin(threads, lambda: "room") == "room"
        threads.close()

    asyncio.run(scenario())


def test_what_the_work_raises_arrives() -> None:
    async def scenario() -> None:
        threads: Any = BoundedThreads("vectors", HandClock(), at_once=1, max_waiting=0)
        with pytest.raises(ZeroDivisionError):
            await threads.run(Admitted(), lambda: 1 // 0)
        await asyncio.sleep(0)
        assert await threads.run(Admitted(), lambda: 1) == 1
        threads.close()

    asyncio.run(scenario())


def test_what_is_begun_is_finished_before_more_is_begun() -> None:
    """It goes before those that came first, and is not refused for want of room."""

    async def scenario() -> None:
        threads: Any = BoundedThreads("images", HandClock(), at_once=1, max_waiting=2)
        go, started, done = threading.Event(), threading.Event(), []

        def hold() -> None:
            started.set()
            go.wait(30)

        def piece(name: str) -> Callable[[], None]:
            return lambda: done.append(name)

        tasks = [asyncio.create_task(threads.run(Admitted(), hold))]
        assert await asyncio.to_thread(started.wait, 30)
        tasks += [asyncio.create_task(threads.run(Admitted(), piece(name))) for name in ("one", "two")]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await begin(threads, piece("three"))
        tasks += [asyncio.create_task(threads.run(Admitted(), piece(name), is_begun=True)) for name in ("next", "then")]
        await asyncio.sleep(0)
        go.set()
        await asyncio.wait_for(asyncio.gather(*tasks), 30)
        assert done == ["next", "then", "one", "two"]
        threads.close()

    asyncio.run(scenario())


def test_what_waits_is_dropped_on_closing_and_on_leaving() -> None:
    async def scenario() -> None:
        threads: Any = BoundedThreads("images", HandClock(), at_once=1, max_waiting=3)
        go, started, done = threading.Event(), threading.Event(), []

        def hold() -> None:
            started.set()
            go.wait(30)

        held = asyncio.create_task(threads.run(Admitted(), hold))
        assert await asyncio.to_thread(started.wait, 30)
        left, kept, last = (
            asyncio.create_task(threads.run(Admitted(), lambda name=name: done.append(name)))
            for name in ("left", "kept", "last")
        )
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.wait([left])
        go.set()
        await asyncio.wait_for(asyncio.gather(held, kept, last), 30)
        assert done == ["kept", "last"]
        assert left.cancelled()
        started.clear()
        go.clear()
        held = asyncio.create_task(threads.run(Admitted(), hold))
        assert await asyncio.to_thread(started.wait, 30)
        waiting = asyncio.create_task(threads.run(Admitted(), lambda: done.append("never")))
        await asyncio.sleep(0)
        threads.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        go.set()
        await asyncio.wait_for(held, 30)
        assert "never" not in done

    asyncio.run(scenario())


SECOND = 100
"""Cost that is done in a second."""


async def held(threads: Any, go: threading.Event, count: int, cost: int = SECOND, deadline: float = math.inf) -> Any:
    """Begin pieces of work that wait for `go`, and return their tasks once they are counted."""
    tasks = [asyncio.create_task(begin(threads, lambda: go.wait(30), cost, deadline)) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


def test_what_cannot_be_done_in_time_is_refused_before_it_waits() -> None:
    """Five seconds each: two and a half of them may lie ahead. What was refused is told when all before it is done."""

    async def scenario() -> None:
        clock, go = HandClock(), threading.Event()
        threads: Any = BoundedThreads("images", clock, at_once=1, max_waiting=9, rate=SECOND)
        deadline = clock.monotonic() + 5
        tasks = await held(threads, go, 2)
        with pytest.raises(Overloaded, match="to be done in time; try again in 3 s") as first:
            await begin(threads, lambda: None, SECOND, deadline)
        with pytest.raises(Overloaded, match="try again in 4 s") as second:
            await begin(threads, lambda: None, SECOND, deadline)
        assert (first.value.retry_after_s, second.value.retry_after_s) == (3, 4)
        small = asyncio.create_task(begin(threads, lambda: "small", SECOND // 2, deadline))
        patient = asyncio.create_task(begin(threads, lambda: "patient", 50 * SECOND))
        await asyncio.sleep(0)
        go.set()
        assert await asyncio.wait_for(asyncio.gather(*tasks, small, patient), 30) == [True, True, "small", "patient"]
        threads.close()

    asyncio.run(scenario())


def test_what_finds_a_thread_free_is_never_refused() -> None:
    """However large it is: nobody could do it sooner."""

    async def scenario() -> None:
        clock, go = HandClock(), threading.Event()
        threads: Any = BoundedThreads("images", clock, at_once=2, max_waiting=9, rate=SECOND)
        tasks = await held(threads, go, 2, cost=1000 * SECOND, deadline=clock.monotonic() + 5)
        with pytest.raises(Overloaded, match="try again in 10 s"):
            await begin(threads, lambda: None, 1, clock.monotonic() + 5)
        go.set()
        await asyncio.wait_for(asyncio.gather(*tasks), 30)
        assert await begin(threads, lambda: "room", 1000 * SECOND, clock.monotonic() + 5) == "room"
        threads.close()

    asyncio.run(scenario())


def test_those_whose_cost_is_not_known_yet_are_taken_to_be_usual() -> None:
    """And those that are coming count for them: a burst is refused before any of it was looked at."""

    async def scenario() -> None:
        clock, go = HandClock(), threading.Event()
        threads: Any = BoundedThreads("images", clock, at_once=1, max_waiting=9, rate=4 * SECOND)
        asked = Admitted(clock.monotonic() + 5)
        tasks = await held(threads, go, 9)
        # A quarter of a second each: nine are ahead, and the tenth is still done in half of the time.
        threads.require(asked)
        with threads.coming(), pytest.raises(Overloaded):
            threads.require(asked)
        threads.require(asked)
        go.set()
        await asyncio.wait_for(asyncio.gather(*tasks), 30)
        threads.close()

    asyncio.run(scenario())


def test_the_rate_is_measured_while_there_is_work() -> None:
    """All that goes on meanwhile is in it; idle time is not, nor what failed or was dropped."""
    load = Load(rate=1000)
    now = 0.0
    for _ in range(100):
        now += 1000
        load.begin(10, now)
        load.begin(10, now)
        load.end(10, now + 1, is_good=True)
        load.begin(10, now + 1)
        load.end(10, now + 1.5, is_good=False)
        load.drop(10)
    assert load.under_way == 0
    assert load.seconds(10) == pytest.approx(1, rel=0.01)
    assert load.usual == pytest.approx(10, rel=0.01)
