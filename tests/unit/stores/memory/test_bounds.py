"""What the memory adapters do at their bounds, which other adapters do not have."""

from __future__ import annotations

import asyncio
import time
import tracemalloc

import pytest

from phalanx.errors import Conflict, Unavailable
from phalanx.ports import Allowance, CachedVector, RatePolicy
from phalanx.stores.memory.cache import ENTRY_BYTES, MemoryCache, size_of
from phalanx.stores.memory.clock import SystemClock
from phalanx.stores.memory.counters import SAMPLE, BoundedCounters
from phalanx.stores.memory.idempotency import MemoryIdempotencyStore
from phalanx.stores.memory.limiter import PERIOD_KEPT_S, MemoryLimiter

pytestmark = pytest.mark.anyio


class StillClock:
    """A clock that moves when `seconds` is set."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds


def vector(n: int) -> CachedVector:
    return CachedVector(bytes([n]), 1, 1)


async def test_a_full_cache_drops_what_was_used_longest_ago() -> None:
    cache: MemoryCache[CachedVector] = MemoryCache(3)
    await cache.set_many([(b"a", vector(1)), (b"b", vector(2)), (b"c", vector(3))])
    await cache.get_many([b"a"])
    await cache.set_many([(b"b", vector(4)), (b"d", vector(5))])
    assert await cache.get_many([b"a", b"b", b"c", b"d"]) == [vector(1), vector(4), None, vector(5)]
    assert len(cache) == 3


async def test_a_batch_larger_than_the_cache_leaves_its_end() -> None:
    cache: MemoryCache[CachedVector] = MemoryCache(2)
    await cache.set_many([(bytes([n]), vector(n)) for n in range(10)])
    assert await cache.get_many([bytes([n]) for n in (7, 8, 9)]) == [None, vector(8), vector(9)]


async def test_a_cache_of_size_zero_keeps_nothing() -> None:
    cache: MemoryCache[CachedVector] = MemoryCache(0)
    await cache.set_many([(b"a", vector(1))])
    assert await cache.get_many([b"a"]) == [None]
    assert len(cache) == 0


async def test_a_cache_of_results_is_bounded_in_bytes() -> None:
    cache = MemoryCache(3 * size_of(b"x" * 100), weigh=size_of)
    await cache.set_many([(bytes([n]), bytes([n]) * 100) for n in range(3)])
    await cache.get_many([b"\0"])
    await cache.set_many([(b"\3", b"3" * 101)])
    assert [bool(hit) for hit in await cache.get_many([bytes([n]) for n in range(4)])] == [True, False, False, True]
    assert cache.weight == 201 + 2 * ENTRY_BYTES
    await cache.set_many([(b"\0", b"0" * 5)])
    assert (len(cache), cache.weight) == (2, 106 + 2 * ENTRY_BYTES)


async def test_what_is_larger_than_the_cache_drives_nothing_out_and_what_it_replaces_goes() -> None:
    cache = MemoryCache(2 * size_of(b"x" * 100), weigh=size_of)
    await cache.set_many([(b"a", b"1"), (b"b", b"2")])
    await cache.set_many([(b"a", b"x" * 1000)])
    assert await cache.get_many([b"a", b"b"]) == [None, b"2"]
    assert cache.weight == size_of(b"2")


def test_an_entry_takes_about_as_much_memory_as_it_weighs() -> None:
    for size in (0, 500):
        cache = MemoryCache(2**30, weigh=size_of)
        tracemalloc.start()
        asyncio.run(
            cache.set_many([(bytes([n % 256, n // 256]) * 8, bytes([n % 256]) * (size + 2)) for n in range(20_000)])
        )
        taken, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert 0.7 < taken / cache.weight < 1.3


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(ValueError, match="-1"):
        MemoryCache(-1)
    with pytest.raises(ValueError, match="0"):
        BoundedCounters(0)


def test_full_counters_drop_the_smallest_of_those_left_alone_longest() -> None:
    counters = BoundedCounters(SAMPLE + 5)
    for n in range(SAMPLE + 5):
        counters.set(f"k{n}", 1 if n == SAMPLE + 1 else 100 - n)
    counters.set("new", 50)
    assert len(counters) == SAMPLE + 5
    # k9 is smaller, but it was set more recently than the sample reaches.
    assert counters.get(f"k{SAMPLE - 1}", -1) == -1
    assert counters.get(f"k{SAMPLE + 1}", -1) == 1
    # The rest of the sample had its second chance, so now it is the turn of the others.
    counters.set("newer", 50)
    assert counters.get(f"k{SAMPLE + 1}", -1) == -1


def test_setting_a_known_key_of_full_counters_drops_nothing() -> None:
    counters = BoundedCounters(2)
    for key, value in (("a", 1), ("b", 2), ("a", 3)):
        counters.set(key, value)
    assert (counters.get("a", -1), counters.get("b", -1)) == (3, 2)
    assert len(counters) == 2


async def bill(limiter: MemoryLimiter, subject: str, period: str, count: int = 1) -> None:
    for n in range(count):
        grant = await limiter.take(subject, Allowance(monthly=50), period=period, lease=f"{subject} {n}")
        await limiter.settle(grant, billed=True)


async def test_a_flood_of_new_subjects_does_not_free_one_that_is_limited() -> None:
    limiter = MemoryLimiter(StillClock(), max_subjects=100)
    paced = Allowance(RatePolicy(per_minute=60, burst=20))
    for n in range(20):
        await limiter.take("greedy", paced, period="2026-11", lease=str(n))
    for n in range(2_000):
        await limiter.take(f"passer-by {n}", paced, period="2026-11", lease=f"p{n}")
    assert (await limiter.take("greedy", paced, period="2026-11", lease="last")).refused == "rate"


async def test_a_flood_of_new_subjects_does_not_reset_a_used_quota() -> None:
    limiter = MemoryLimiter(StillClock(), max_quotas=100)
    await bill(limiter, "greedy", "2026-11", 50)
    for n in range(2_000):
        await bill(limiter, f"passer-by {n}", "2026-11")
    assert await limiter.used("greedy", "2026-11") == 50


async def test_periods_long_over_are_forgotten_when_a_new_one_begins() -> None:
    clock = StillClock()
    limiter = MemoryLimiter(clock)
    await bill(limiter, "a", "2026-09")
    clock.seconds += PERIOD_KEPT_S - 1
    await bill(limiter, "a", "2026-10")
    assert await limiter.used("a", "2026-09") == 1
    clock.seconds += PERIOD_KEPT_S
    await bill(limiter, "a", "2026-12")
    assert await limiter.used("a", "2026-09") == 0


async def test_nothing_is_kept_of_calls_that_are_over() -> None:
    limiter = MemoryLimiter(StillClock())
    for n in range(100):
        grant = await limiter.take(f"s{n}", Allowance(monthly=5, concurrent=1), period="2026-11", lease=f"{n}")
        await limiter.settle(grant, billed=n % 2 == 0)
    assert (limiter._leases, limiter._open, limiter._reserved) == ({}, {}, {})


async def test_the_oldest_answers_make_room_in_number() -> None:
    store = MemoryIdempotencyStore(StillClock(), max_entries=3)
    for n in range(4):
        await store.begin(f"k{n}", b"request")
        await store.finish(f"k{n}", b"answer")
    assert await store.begin("k0", b"request") is None
    assert await store.begin("k3", b"request") == b"answer"


async def test_the_oldest_answers_make_room_in_bytes() -> None:
    store = MemoryIdempotencyStore(StillClock(), max_bytes=1_000)
    for n in range(9):
        await store.begin(f"k{n}", b"request")
        await store.finish(f"k{n}", bytes(120))
    assert await store.begin("k8", b"request") == bytes(120)
    assert await store.begin("k1", b"request") == bytes(120)
    assert await store.begin("k0", b"request") is None


async def test_an_answer_too_large_to_keep_frees_its_key() -> None:
    store = MemoryIdempotencyStore(StillClock(), max_bytes=800)
    await store.begin("k", b"request")
    await store.finish("k", bytes(101))
    assert await store.begin("k", b"request") is None
    await store.finish("k", bytes(100))
    assert await store.begin("k", b"request") == bytes(100)


async def test_calls_under_way_never_make_room() -> None:
    store = MemoryIdempotencyStore(StillClock(), max_entries=2)
    await store.begin("a", b"request")
    await store.begin("b", b"request")
    with pytest.raises(Unavailable):
        await store.begin("c", b"request")
    with pytest.raises(Conflict):
        await store.begin("a", b"request")
    await store.finish("a", None)
    assert await store.begin("c", b"request") is None


async def test_a_call_that_outlived_its_claim_does_not_end_the_claim_of_another_one() -> None:
    clock = StillClock()
    store = MemoryIdempotencyStore(clock, lease_s=10.0)
    await store.begin("k", b"request")
    clock.seconds += 10.0
    assert await store.begin("other", b"request") is None
    await store.finish("k", b"late answer")
    assert await store.begin("k", b"request") is None


def test_the_system_clock_tells_the_time() -> None:
    clock = SystemClock()
    assert abs(clock.now() - time.time()) < 1.0
    first = clock.monotonic()
    assert clock.monotonic() >= first
