"""Results of images: kept apart by organisation, computed once for all who ask at once, and lost with nobody."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import phalanx
from phalanx.contract.faces import DetectResult, EmbeddedFace
from phalanx.errors import DeadlineExceeded, NoFace, Overloaded, PhalanxError
from phalanx.services.results import Results
from phalanx.services.ticket import Meter
from phalanx.stores.memory.cache import MemoryCache, size_of
from phalanx.stores.memory.clock import SystemClock

pytestmark = pytest.mark.anyio


def ticket(tenant: str = "ann", seconds: float = math.inf) -> Any:
    return SimpleNamespace(tenant=tenant, cached_for=tenant, deadline=time.monotonic() + seconds, meter=Meter())


def results(cache: MemoryCache[bytes] | None = None, **options: Any) -> Results:
    return Results(MemoryCache(100_000, weigh=size_of) if cache is None else cache, SystemClock(), **options)


class Work:
    """Computes a result when `go` is set, and counts how often; the first `failures` fail."""

    def __init__(self, *failures: PhalanxError) -> None:
        self.go = asyncio.Event()
        self.began = 0
        self._failures = list(failures)

    async def __call__(self) -> DetectResult:
        self.began += 1
        number = self.began
        await self.go.wait()
        if self._failures:
            raise self._failures.pop(0)
        return DetectResult(faces=[], width=number)


def done(width: int = 1) -> Callable[[], Awaitable[DetectResult]]:
    async def compute() -> DetectResult:
        return DetectResult(faces=[], width=width)

    return compute


async def ask(kept: Results, who: Any, facts: tuple[Any, ...] = ("a",), work: Any = None) -> tuple[int | None, bool]:
    result, cached = await kept.get(who, facts, DetectResult, work or done())
    return result.width, cached


async def test_what_was_computed_is_kept_for_the_organisation() -> None:
    lookups: list[tuple[int, int]] = []
    kept = results(on_lookup=lambda hits, misses: lookups.append((hits, misses)))
    assert await ask(kept, ticket(), work=done(1)) == (1, False)
    assert await ask(kept, ticket(), work=done(2)) == (1, True)
    assert await ask(kept, ticket("bob"), work=done(3)) == (3, False)
    assert lookups == [(0, 1), (1, 0), (0, 1)]


async def test_organisations_share_results_when_that_is_asked_for() -> None:
    kept = results(share=True)
    assert await ask(kept, ticket("ann"), work=done(1)) == (1, False)
    assert await ask(kept, ticket("bob"), work=done(2)) == (1, True)


@pytest.mark.parametrize(
    "other", [("b",), ("a", None), ("a", ""), (b"a",), (), (("a",),), ("a", 0.5), ("a", 0.50001), ("a", 1), ("a", True)]
)
async def test_every_fact_decides(other: tuple[Any, ...]) -> None:
    kept = results()
    await ask(kept, ticket(), ("a",))
    await ask(kept, ticket(), ("a", 0.5000001))
    assert (await ask(kept, ticket(), other))[1] is False


async def test_a_name_cannot_be_taken_for_an_organisation_and_a_fact() -> None:
    kept = results()
    await ask(kept, ticket("a"), ("b", "c"))
    assert (await ask(kept, ticket("ab"), ("c",)))[1] is False


async def test_a_new_release_looks_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = results()
    await ask(kept, ticket())
    monkeypatch.setattr(phalanx, "__version__", "999")
    assert (await ask(kept, ticket()))[1] is False


async def test_a_vector_comes_back_as_it_was() -> None:
    kept, vector = results(), np.arange(4, dtype=np.float32) / 3

    async def compute() -> list[EmbeddedFace]:
        return [EmbeddedFace(embedding=vector, quality=0.5)]

    for cached in (False, True):
        (face,), was_cached = await kept.get(ticket(), ("v",), list[EmbeddedFace], compute)
        assert was_cached is cached
        assert face.embedding.dtype == np.float32
        assert np.array_equal(face.embedding, vector)


async def test_what_cannot_be_read_is_computed_again() -> None:
    cache: MemoryCache[bytes] = MemoryCache(100_000, weigh=size_of)
    kept = results(cache)
    await ask(kept, ticket())
    for rubbish in (b"", b"\xc1", b"\x93\x01\x02\x03", b"\xc7\x01\x05x"):
        await cache.set_many([(key, rubbish) for key in list(cache._entries)])
        assert (await ask(kept, ticket()))[1] is False
        assert (await ask(kept, ticket()))[1] is True


async def test_callers_at_once_have_it_computed_once() -> None:
    kept, work = results(), Work()
    tickets = [ticket() for _ in range(20)]
    asking = [asyncio.create_task(ask(kept, one, work=work)) for one in tickets]
    await asyncio.sleep(0.02)
    work.go.set()
    assert await asyncio.gather(*asking) == [(1, False)] * 20
    assert work.began == 1
    assert tickets[0].meter.queue_s == 0
    assert all(one.meter.queue_s > 0.01 for one in tickets[1:])
    assert not kept._under_way


async def test_organisations_wait_for_nobody_else() -> None:
    kept, work = results(), Work()
    asking = [asyncio.create_task(ask(kept, ticket(name), work=work)) for name in ("ann", "bob", "ann")]
    await asyncio.sleep(0)
    work.go.set()
    await asyncio.gather(*asking)
    assert work.began == 2


async def test_the_first_ones_leaving_hurts_nobody() -> None:
    kept, work = results(), Work()
    first, second, third = (asyncio.create_task(ask(kept, ticket(), work=work)) for _ in range(3))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    work.go.set()
    assert [width for width, _ in await asyncio.gather(second, third)] == [2, 2]
    assert first.cancelled()
    assert work.began == 2


async def test_a_followers_leaving_hurts_nobody() -> None:
    kept, work = results(), Work()
    first, second, third = (asyncio.create_task(ask(kept, ticket(), work=work)) for _ in range(3))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.sleep(0)
    work.go.set()
    assert list(await asyncio.gather(first, third)) == [(1, False), (1, False)]


async def test_everybodys_error_is_found_once_and_not_kept() -> None:
    kept, work = results(), Work(NoFace())
    asking = [asyncio.create_task(ask(kept, ticket(), work=work)) for _ in range(5)]
    await asyncio.sleep(0)
    work.go.set()
    outcomes = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [NoFace] * 5
    assert work.began == 1
    assert await ask(kept, ticket(), work=work) == (2, False)


@pytest.mark.parametrize("own", [DeadlineExceeded(), Overloaded()])
async def test_the_first_ones_own_error_is_nobody_elses(own: PhalanxError) -> None:
    kept, work = results(), Work(own)
    asking = [asyncio.create_task(ask(kept, ticket(), work=work)) for _ in range(5)]
    await asyncio.sleep(0)
    work.go.set()
    first, *others = await asyncio.gather(*asking, return_exceptions=True)
    assert first is own
    assert [other[0] for other in others if isinstance(other, tuple)] == [2] * 4
    assert work.began == 2


async def test_a_bug_is_the_first_ones_alone() -> None:
    kept = results()
    work: Any = Work(ZeroDivisionError())  # type: ignore[arg-type]
    asking = [asyncio.create_task(ask(kept, ticket(), work=work)) for _ in range(2)]
    await asyncio.sleep(0)
    work.go.set()
    first, second = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(first, ZeroDivisionError)
    assert second == (2, False)


async def test_who_waits_has_a_deadline_of_its_own() -> None:
    kept, work = results(), Work()
    first = asyncio.create_task(ask(kept, ticket(), work=work))
    await asyncio.sleep(0)
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        await ask(kept, ticket(seconds=0.05), work=work)
    assert time.monotonic() - started < 2
    work.go.set()
    assert await first == (1, False)
