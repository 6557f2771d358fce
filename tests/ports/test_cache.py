"""What every `VectorCache` does."""

from __future__ import annotations

import pytest

from phalanx.ports import CachedVector, VectorCache
from phalanx.stores.memory.cache import MemoryVectorCache

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory"])
def cache() -> VectorCache:
    return MemoryVectorCache(100)


def vector(n: int) -> CachedVector:
    return CachedVector(bytes([n % 256]) * 1536, tokens=n + 2, used_tokens=n + 1)


async def test_an_empty_cache_misses(cache: VectorCache) -> None:
    assert await cache.get_many([b"a", b"b"]) == [None, None]
    assert await cache.get_many([]) == []


async def test_what_was_set_comes_back_in_the_order_asked_for(cache: VectorCache) -> None:
    await cache.set_many([(b"a", vector(1)), (b"b", vector(2))])
    assert await cache.get_many([b"b", b"x", b"a", b"b"]) == [vector(2), None, vector(1), vector(2)]


async def test_setting_again_replaces(cache: VectorCache) -> None:
    await cache.set_many([(b"a", vector(1)), (b"a", vector(2))])
    await cache.set_many([(b"a", vector(3))])
    assert await cache.get_many([b"a"]) == [vector(3)]


async def test_setting_nothing_changes_nothing(cache: VectorCache) -> None:
    await cache.set_many([(b"a", vector(1))])
    await cache.set_many([])
    assert await cache.get_many([b"a"]) == [vector(1)]


async def test_any_bytes_are_a_key_and_a_value(cache: VectorCache) -> None:
    key, value = bytes(range(16)), CachedVector(b"\x00\xff\n" * 512, 0, 0)
    await cache.set_many([(key, value), (b"", vector(1))])
    assert await cache.get_many([key, b""]) == [value, vector(1)]
