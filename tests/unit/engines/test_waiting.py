"""Waits end once, on their own event loop, whatever thread ends them."""

from __future__ import annotations

import asyncio
import threading
from typing import NamedTuple

from phalanx.engines.waiting import Computed, Job, Request, Wait, settle, settle_from_afar
from phalanx.errors import Internal, PhalanxError, Unavailable
from phalanx.ports import Finished


class Item(NamedTuple):
    length: int


def job(length: int = 10, *, now: float = 0.0) -> Job[Item]:
    return Job(Item(length), None, tenant="one", deadline=9.0, now=now)


def request(size: int, submitted_at: float = 0.0) -> Request:
    async def make() -> Request:
        return Request(size, submitted_at)

    return asyncio.run(make())


def test_a_wait_that_has_ended_is_left_as_it_is() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        ended, cancelled, waiting = (loop.create_future() for _ in range(3))
        ended.set_result(None)
        cancelled.cancel()
        settle([ended, cancelled, waiting], Unavailable)
        settle([ended, cancelled, waiting], None)
        assert ended.exception() is None
        assert cancelled.cancelled()
        assert isinstance(waiting.exception(), Unavailable)

    asyncio.run(scenario())


def test_each_wait_fails_with_an_error_of_its_own() -> None:
    async def scenario() -> None:
        waits: list[Wait] = [asyncio.get_running_loop().create_future() for _ in range(2)]
        settle(waits, Unavailable)
        first, second = (wait.exception() for wait in waits)
        assert first is not second

    asyncio.run(scenario())


def test_another_thread_ends_waits_on_their_own_loop_and_a_closed_loop_is_no_obstacle() -> None:
    async def make() -> Wait:
        return asyncio.get_running_loop().create_future()

    async def scenario() -> None:
        wait = await make()
        threading.Thread(target=settle_from_afar, args=([orphan, wait], None)).start()
        await asyncio.wait_for(wait, 5)

    orphan = asyncio.run(make())
    asyncio.run(scenario())
    assert not orphan.done()


def test_a_job_gives_its_outcome_to_all_who_wait_and_forgets_them() -> None:
    early, late, partial = request(1, 1.0), request(2, 5.5), request(2, 2.0)
    one = job()
    one.waiters = {early: [0], late: [0, 1], partial: [1]}
    assert one.finish("vector", started=4.0, finished=6.0) == [early, late]
    assert early.results == [Finished("vector", 3.0, 2.0)]
    assert late.results == [Finished("vector", 0.0, 0.5)] * 2
    assert (partial.results, partial.left) == ([None, Finished("vector", 2.0, 2.0)], 1)
    assert one.waiters == {}


def test_an_error_is_given_as_it_is() -> None:
    asking, error = request(1), Internal()
    one = job()
    one.waiters = {asking: [0]}
    assert one.finish(error, started=1.0, finished=2.0) == [asking]
    assert asking.results == [error]


def test_facts_of_a_batch_count_padding_to_the_longest_item() -> None:
    outcomes: list[str | PhalanxError] = ["a", Internal(), "c"]
    batch = [job(10, now=1.0), job(33, now=2.0), job(48, now=3.0)]
    facts = Computed(batch, outcomes, started=3.5, finished=5.0).facts()
    assert facts == (3, 1, 91, 144, (2.5, 1.5, 0.5), 1.5)
