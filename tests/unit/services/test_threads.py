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
from phalanx.services.threads import BoundedThreads

AT_ONCE, WAITING = 2, 3


class Admitted:
    deadline = math.inf


def test_as_many_work_and_wait_as_may() -> None:
    """One more is refused with when to come back, and there is room once they are done."""

    async def scenario() -> None:
        threads: Any = BoundedThreads("vectors", HandClock(), at_once=AT_ONCE, max_waiting=WAITING)
        go, started, running = threading.Event(), threading.Semaphore(0), []

        def work() -> None:
            running.append(threading.current_thread().name)
            started.release()
            go.wait(5)

        tasks = [asyncio.create_task(threads.run(Admitted(), work)) for _ in range(AT_ONCE + WAITING)]
        await asyncio.sleep(0)
        for _ in range(AT_ONCE):
            assert await asyncio.to_thread(started.acquire, timeout=5)
        assert len(running) == AT_ONCE
        with pytest.raises(Overloaded, match="too many vectors") as refused:
            await threads.run(Admitted(), work)
        assert refused.value.retry_after_s
        go.set()
        await asyncio.gather(*tasks)
        assert await threads.run(Admitted(), lambda: "room") == "room"
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
            await threads.run(Admitted(), piece("three"))
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
