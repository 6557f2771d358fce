"""What serves, as the store's pointers change: on stand-ins, which load at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial

import pytest
import structlog

from phalanx.errors import Unavailable
from phalanx.ports import Submission
from phalanx.services.serving.agreement import Agreement
from phalanx.services.serving.health import HealthService
from phalanx.services.serving.rollouts import Candidate, Line, Rollouts
from phalanx.services.serving.stand_ins import text_stand_in
from phalanx.services.serving.text_models import ModelRegistry, ServedText
from phalanx.stores.memory.clock import SystemClock
from phalanx.stores.memory.rollcall import MemoryRollcall
from phalanx.telemetry import Metrics

pytestmark = pytest.mark.anyio
NAME = "model"


class Worker:
    """One model whose active versions are set by hand; `broken` ones cannot be loaded."""

    def __init__(self, rollcall: MemoryRollcall, worker_id: str = "a") -> None:
        self.active: dict[str, float] = {"1": 1.0}
        self.broken: set[str] = set()
        self.loads: list[str] = []
        self.mark = 0
        self.registry = ModelRegistry(NAME)
        self.metrics = Metrics()
        log = structlog.get_logger()
        self.health = HealthService((self.registry,), {}, clock=SystemClock(), permits=lambda: (0, 0))
        self.agreement = Agreement(rollcall, worker_id, log=log, unaware_s=0.3, ask_s=0.01)
        line = Line(NAME, self.registry, self.candidates, frozenset((NAME,)))
        self.rollouts = Rollouts(
            lambda: [line], lambda: {NAME: (0, self.mark)}, self.health, metrics=self.metrics, log=log,
            linger_s=5.0, drain_s=1.0, agreement=self.agreement,
        )  # fmt: skip

    def candidates(self) -> list[Candidate]:
        return [Candidate(version, weight, partial(self.load, version)) for version, weight in self.active.items()]

    def load(self, version: str) -> ServedText:
        self.loads.append(version)
        if version in self.broken:
            raise Unavailable(f"the golden check of {version} failed")
        served = text_stand_in(NAME, None, None)
        served.model.spec = replace(served.model.spec, version=version)
        return served

    async def activate(self, **weights: float) -> None:
        self.active = {version.removeprefix("v"): weight for version, weight in weights.items()}
        self.mark += 1
        await self.rollouts.look()

    @property
    def serving(self) -> dict[str, float]:
        return dict(self.registry.rollout(NAME).weights)

    def counted(self, outcome: str) -> float | None:
        labels = {"model": NAME, "outcome": outcome}
        return self.metrics.registry.get_sample_value("phalanx_model_swaps_total", labels)


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    one = Worker(MemoryRollcall(SystemClock()))
    yield one
    await one.rollouts.close()


async def compute(served: ServedText) -> None:
    item = served.model.prepare("a text")
    (result,) = await served.runner.submit([Submission(item)], tenant="me", deadline=float("inf"))
    assert not isinstance(result, Exception)


async def test_a_change_of_the_pointer_is_followed(worker: Worker) -> None:
    await worker.rollouts.load()
    assert (worker.serving, worker.counted("swapped")) == ({"1": 1.0}, None)
    await worker.rollouts.look()
    assert worker.loads == ["1"], "nothing changed"
    await worker.activate(v2=1)
    assert (worker.serving, worker.counted("swapped"), worker.loads) == ({"2": 1.0}, 1.0, ["1", "2"])
    await worker.activate(v2=90, v1=10)
    assert (worker.serving, worker.loads) == ({"2": 0.9, "1": 0.1}, ["1", "2", "1"])
    await worker.activate(v2=50, v1=50)
    assert (worker.serving, len(worker.loads)) == ({"2": 0.5, "1": 0.5}, 3), "weights need no loading"
    assert await worker.health.readiness() == []


async def test_a_call_under_way_finishes_on_the_old_version(worker: Worker) -> None:
    await worker.rollouts.load()
    held = worker.registry.text(None, "me")
    await worker.activate(v2=1)
    assert worker.registry.text(None, "me").version == "2"
    await asyncio.sleep(0.1)
    await compute(held)
    runner, item = held.runner, held.model.prepare("a text")
    del held

    async def ask_on() -> None:
        for _ in range(300):
            await runner.submit([Submission(item)], tenant="me", deadline=float("inf"))
            await asyncio.sleep(0.01)

    with pytest.raises(Unavailable):
        await ask_on()


async def test_a_version_that_fails_is_refused_and_shown_until_the_pointer_is_right(worker: Worker) -> None:
    await worker.rollouts.load()
    worker.broken = {"2"}
    await worker.activate(v1=50, v2=50)
    assert (worker.serving, worker.counted("refused")) == ({"1": 1.0}, 1.0)
    health = await worker.health.health()
    assert health.status == "degraded"
    assert [(model.version, model.error) for model in health.models if not model.ready] == [
        ("2", "the golden check of 2 failed")
    ]
    assert await worker.health.readiness() == []
    await worker.rollouts.look()
    assert worker.loads == ["1", "2"], "it is not tried again and again"
    await worker.activate(v1=1)
    assert (await worker.health.health()).status == "healthy"
    worker.broken = set()
    await worker.activate(v2=1)
    assert worker.serving == {"2": 1.0}


async def test_of_the_first_versions_those_serve_that_can(worker: Worker) -> None:
    worker.active, worker.broken = {"1": 1.0, "2": 1.0}, {"1"}
    await worker.rollouts.load()
    assert worker.serving == {"2": 1.0}
    assert (await worker.health.health()).status == "degraded"


async def test_a_worker_without_any_says_why(worker: Worker) -> None:
    worker.broken = {"1"}
    await worker.rollouts.load()
    with pytest.raises(Unavailable, match="the golden check of 1 failed"):
        worker.registry.text(None, "me")
    assert (await worker.health.health()).status == "unhealthy"


async def test_workers_go_together_or_not_at_all() -> None:
    rollcall = MemoryRollcall(SystemClock())
    one, other = Worker(rollcall, "a"), Worker(rollcall, "b")
    await asyncio.gather(one.rollouts.load(), other.rollouts.load())
    other.broken = {"2"}
    await asyncio.gather(one.activate(v2=1), other.activate(v2=1))
    assert one.serving == other.serving == {"1": 1.0}
    errors = [model.error or "" for model in (await one.health.health()).models if not model.ready]
    assert errors == ["another worker could not: the golden check of 2 failed"]
    await asyncio.gather(one.activate(v3=1), other.activate(v3=1))
    assert one.serving == other.serving == {"3": 1.0}
    await asyncio.gather(one.rollouts.close(), other.rollouts.close())
