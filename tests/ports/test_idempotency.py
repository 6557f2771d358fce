"""What every `IdempotencyStore` does."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from phalanx.errors import Conflict, IdempotencyMismatch
from phalanx.ports import Clock, IdempotencyStore
from phalanx.stores.memory.idempotency import ANSWER_KEPT_S, CLAIM_LEASE_S, MemoryIdempotencyStore

if TYPE_CHECKING:
    from tests.ports.conftest import HandClock

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory"])
def store(clock: Clock) -> IdempotencyStore:
    return MemoryIdempotencyStore(clock)


async def test_the_first_call_goes_on_and_its_repetition_gets_its_answer(store: IdempotencyStore) -> None:
    assert await store.begin("k", b"request") is None
    await store.finish("k", b"answer")
    assert await store.begin("k", b"request") == b"answer"
    assert await store.begin("k", b"request") == b"answer"


async def test_an_empty_answer_is_an_answer(store: IdempotencyStore) -> None:
    await store.begin("k", b"request")
    await store.finish("k", b"")
    assert await store.begin("k", b"request") == b""


async def test_a_repetition_while_the_first_is_under_way_is_a_conflict(store: IdempotencyStore) -> None:
    await store.begin("k", b"request")
    with pytest.raises(Conflict):
        await store.begin("k", b"request")


@pytest.mark.parametrize("finished", [False, True])
async def test_another_request_under_the_same_key_is_a_mismatch(store: IdempotencyStore, finished: bool) -> None:
    await store.begin("k", b"request")
    if finished:
        await store.finish("k", b"answer")
    with pytest.raises(IdempotencyMismatch):
        await store.begin("k", b"another")
    if finished:
        assert await store.begin("k", b"request") == b"answer"


async def test_a_failed_call_frees_its_key(store: IdempotencyStore) -> None:
    await store.begin("k", b"request")
    await store.finish("k", None)
    assert await store.begin("k", b"another") is None


async def test_keys_are_told_apart(store: IdempotencyStore) -> None:
    await store.begin("a", b"request")
    assert await store.begin("b", b"request") is None


async def test_of_many_calls_at_once_one_goes_on(store: IdempotencyStore) -> None:
    outcomes = await asyncio.gather(*(store.begin("k", b"request") for _ in range(50)), return_exceptions=True)
    assert sum(outcome is None for outcome in outcomes) == 1
    assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 49


async def test_an_answer_is_kept_for_a_day(store: IdempotencyStore, clock: HandClock) -> None:
    await store.begin("k", b"request")
    await store.finish("k", b"answer")
    clock.advance(ANSWER_KEPT_S - 1)
    assert await store.begin("k", b"request") == b"answer"
    clock.advance(1)
    assert await store.begin("k", b"another") is None


async def test_the_claim_of_a_call_that_never_ends_runs_out(store: IdempotencyStore, clock: HandClock) -> None:
    await store.begin("k", b"request")
    clock.advance(CLAIM_LEASE_S - 1)
    with pytest.raises(Conflict):
        await store.begin("k", b"request")
    clock.advance(1)
    assert await store.begin("k", b"request") is None


async def test_finishing_a_key_that_nobody_claims_does_nothing(store: IdempotencyStore) -> None:
    await store.finish("k", b"answer")
    assert await store.begin("k", b"request") is None
