"""Tasks whose first step runs at once."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

import pytest

from phalanx.edges.http.eager import start_eagerly


def in_callback(work: Any) -> asyncio.Future[Any]:
    """Run `work()` as a callback of the running loop, as a protocol is run: outside any task."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def run() -> None:
        try:
            done.set_result(work())
        except Exception as error:
            done.set_exception(error)

    loop.call_soon(run)
    return done


def test_work_without_a_wait_is_done_on_return(run: Any) -> None:
    steps: list[str] = []

    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        steps.append("ran")

    def start() -> None:
        task = start_eagerly(asyncio.get_running_loop(), work())
        assert (steps, task.done(), task.exception()) == (["ran"], True, None)

    async def check() -> None:
        await in_callback(start)

    run(check())


def test_work_that_waits_goes_on_as_an_ordinary_task(run: Any) -> None:
    steps: list[str] = []

    async def work() -> None:
        steps.append("began")
        async with asyncio.timeout(5):
            await asyncio.sleep(0.01)
        steps.append("ended")

    def start() -> asyncio.Task[None]:
        task = start_eagerly(asyncio.get_running_loop(), work())
        assert steps == ["began"]
        assert not task.done()
        return task

    async def check() -> None:
        task = await in_callback(start)
        await task
        assert steps == ["began", "ended"]
        assert "call_soon" not in vars(asyncio.get_running_loop())

    run(check())


def test_a_failure_is_kept_in_the_task_and_a_cancellation_reaches_it(run: Any) -> None:
    async def fail() -> None:
        raise KeyError("at once")

    async def wait() -> None:
        await asyncio.sleep(60)

    def start() -> tuple[asyncio.Task[None], asyncio.Task[None]]:
        loop = asyncio.get_running_loop()
        return start_eagerly(loop, fail()), start_eagerly(loop, wait())

    async def check() -> None:
        failed, waiting = await in_callback(start)
        assert isinstance(failed.exception(), KeyError)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    run(check())


def test_each_task_has_a_context_of_its_own(run: Any) -> None:
    name: ContextVar[str] = ContextVar("name", default="none")
    seen: list[str] = []

    async def work(own: str) -> None:
        seen.append(name.get())
        name.set(own)
        await asyncio.sleep(0)
        seen.append(name.get())

    def start() -> list[asyncio.Task[None]]:
        return [start_eagerly(asyncio.get_running_loop(), work(own)) for own in ("a", "b")]

    async def check() -> None:
        await asyncio.gather(*await in_callback(start))
        assert seen == ["none", "none", "a", "b"]
        assert name.get() == "none"

    run(check())


def test_work_started_inside_a_task_is_run_too(run: Any) -> None:
    steps: list[str] = []

    async def work() -> None:
        steps.append("ran")

    async def check() -> None:
        await start_eagerly(asyncio.get_running_loop(), work())
        assert steps == ["ran"]

    run(check())
