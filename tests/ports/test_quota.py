"""What every `QuotaStore` does."""

from __future__ import annotations

import asyncio
import random

import pytest

from phalanx.ports import Clock, QuotaStore
from phalanx.stores.memory.quota import MemoryQuotaStore

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory"])
def quotas(clock: Clock) -> QuotaStore:
    return MemoryQuotaStore(clock)


async def used(quotas: QuotaStore, subject: str, period: str = "2026-11") -> int:
    return (await quotas.reserve(subject, period, 0, limit=None)).used


async def test_reservations_add_up_to_the_limit_and_not_past_it(quotas: QuotaStore) -> None:
    assert await quotas.reserve("a", "2026-11", 6, limit=10) == (True, 6, 10)
    assert await quotas.reserve("a", "2026-11", 5, limit=10) == (False, 6, 10)
    assert await quotas.reserve("a", "2026-11", 4, limit=10) == (True, 10, 10)
    assert await quotas.reserve("a", "2026-11", 1, limit=10) == (False, 10, 10)
    assert await quotas.reserve("a", "2026-11", 0, limit=10) == (True, 10, 10)


async def test_without_a_limit_everything_is_counted_and_allowed(quotas: QuotaStore) -> None:
    for _ in range(3):
        assert (await quotas.reserve("a", "2026-11", 10**12, limit=None)).allowed
    assert await used(quotas, "a") == 3 * 10**12


async def test_subjects_and_periods_have_counters_of_their_own(quotas: QuotaStore) -> None:
    await quotas.reserve("a", "2026-11", 5, limit=5)
    assert (await quotas.reserve("b", "2026-11", 5, limit=5)).allowed
    assert (await quotas.reserve("a", "2026-12", 5, limit=5)).allowed
    assert not (await quotas.reserve("a", "2026-11", 1, limit=5)).allowed


async def test_settling_replaces_the_reservation_by_what_was_used(quotas: QuotaStore) -> None:
    await quotas.reserve("a", "2026-11", 10, limit=10)
    await quotas.settle("a", "2026-11", reserved=10, actual=3)
    assert await used(quotas, "a") == 3
    await quotas.settle("a", "2026-11", reserved=3, actual=0)
    assert await used(quotas, "a") == 0


async def test_more_may_be_settled_than_was_reserved_and_counts_against_later_calls(quotas: QuotaStore) -> None:
    await quotas.reserve("a", "2026-11", 8, limit=10)
    await quotas.settle("a", "2026-11", reserved=8, actual=12)
    assert await quotas.reserve("a", "2026-11", 1, limit=10) == (False, 12, 10)


async def test_a_counter_never_falls_below_zero(quotas: QuotaStore) -> None:
    await quotas.settle("a", "2026-11", reserved=5, actual=0)
    assert await used(quotas, "a") == 0


async def test_many_callers_at_once_never_pass_the_limit(quotas: QuotaStore) -> None:
    chance = random.Random(7)

    async def caller() -> int:
        kept = 0
        for _ in range(20):
            amount = chance.randint(1, 5)
            if (await quotas.reserve("a", "2026-11", amount, limit=200)).allowed:
                await asyncio.sleep(0)
                actual = chance.randint(0, amount)
                await quotas.settle("a", "2026-11", reserved=amount, actual=actual)
                kept += actual
            assert await used(quotas, "a") <= 200
        return kept

    assert sum(await asyncio.gather(*(caller() for _ in range(30)))) == await used(quotas, "a") <= 200


async def test_a_negative_amount_is_refused(quotas: QuotaStore) -> None:
    with pytest.raises(ValueError, match="-1"):
        await quotas.reserve("a", "2026-11", -1, limit=10)
