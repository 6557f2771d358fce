"""Workers that change together, on one roll."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import structlog

from phalanx.errors import Unavailable
from phalanx.services.serving.agreement import Agreement
from phalanx.stores.memory.clock import SystemClock
from phalanx.stores.memory.rollcall import MemoryRollcall

pytestmark = pytest.mark.anyio
PLAN = "2=1"
Worker = Callable[[str], Agreement]


@pytest.fixture
def worker() -> Worker:
    rollcall = MemoryRollcall(SystemClock(), alive_s=0.5)

    def make(name: str) -> Agreement:
        log = structlog.get_logger()
        return Agreement(rollcall, name, log=log, unaware_s=0.3, loading_s=2.0, beat_s=0.05, ask_s=0.01)

    return make


async def test_a_worker_alone_agrees_at_once(worker: Worker) -> None:
    assert await asyncio.wait_for(worker("a").reach("model", PLAN), 0.2) is None


async def test_nobody_goes_before_the_last_is_warm(worker: Worker) -> None:
    a, b = worker("a"), worker("b")
    await b.loads("model", PLAN)
    going = asyncio.create_task(a.reach("model", PLAN))
    await asyncio.sleep(0.35)
    assert not going.done()
    other = asyncio.create_task(b.reach("model", PLAN))
    assert list(await asyncio.gather(going, other)) == [None, None]


async def test_whoever_serves_it_already_is_not_waited_for(worker: Worker) -> None:
    a, b = worker("a"), worker("b")
    await b.serves("model", PLAN)
    assert await asyncio.wait_for(a.reach("model", PLAN), 0.2) is None


async def test_one_that_cannot_keeps_all_from_going(worker: Worker) -> None:
    a, b = worker("a"), worker("b")
    await b.loads("model", PLAN)
    going = asyncio.create_task(a.reach("model", PLAN))
    await asyncio.sleep(0.05)
    await b.refuses("model", PLAN, "cosine: 0.5")
    assert await going == "another worker could not: cosine: 0.5"
    assert await a.reach("model", "3=1") is None, "the refusal was of another plan"


async def test_the_dead_are_not_waited_for(worker: Worker) -> None:
    a, b = worker("a"), worker("b")
    await b.loads("model", PLAN)
    began = asyncio.get_running_loop().time()
    assert await a.reach("model", PLAN) is None
    assert asyncio.get_running_loop().time() - began < 1.5


async def test_those_who_do_not_know_of_it_are_waited_for_a_while(worker: Worker) -> None:
    a, b = worker("a"), worker("b")
    await b.serves("model", "1=1")
    beating = asyncio.create_task(b.beat())
    began = asyncio.get_running_loop().time()
    assert await a.reach("model", PLAN) is None
    assert asyncio.get_running_loop().time() - began >= 0.3
    beating.cancel()


async def test_those_who_load_are_waited_for_longer(worker: Worker) -> None:
    a, b = worker("a"), worker("b")
    await b.loads("model", PLAN)
    beating = asyncio.create_task(b.beat())
    going = asyncio.create_task(a.reach("model", PLAN))
    await asyncio.sleep(1.0)
    assert not going.done()
    beating.cancel()
    await b.close()
    assert await going is None


async def test_without_the_roll_a_worker_goes_alone_after_a_while() -> None:
    class Lost(MemoryRollcall):
        async def say(self, matter: str, worker_id: str, word: str) -> dict[str, str]:
            raise Unavailable("Redis does not answer")

    agreement = Agreement(Lost(SystemClock()), "a", log=structlog.get_logger(), unaware_s=0.2, ask_s=0.01)
    began = asyncio.get_running_loop().time()
    await agreement.serves("model", "1=1")
    assert await agreement.reach("model", PLAN) is None
    assert asyncio.get_running_loop().time() - began >= 0.2
