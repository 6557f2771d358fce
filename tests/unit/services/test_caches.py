"""Two caches, one behind the other, and who shares what is in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from phalanx.contract.text import EmbedRequest
from phalanx.engines.text.model import PreparedText
from phalanx.engines.text.spec import TextSpec
from phalanx.ports import CachedVector, Finished, VectorCache
from phalanx.services.caches import TieredCache
from phalanx.services.text import TextService
from phalanx.services.ticket import Meter
from phalanx.stores.memory.cache import MemoryCache

pytestmark = pytest.mark.anyio


class Recorded(MemoryCache[CachedVector]):
    """Remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__(100)
        self.asked: list[list[bytes]] = []

    async def get_many(self, keys: Sequence[bytes]) -> list[CachedVector | None]:
        self.asked.append(list(keys))
        return await super().get_many(keys)


def vector(n: int) -> CachedVector:
    return CachedVector(bytes([n]) * 16, n, n)


class Tiers:
    def __init__(self) -> None:
        self.first, self.second = Recorded(), Recorded()
        self.hits: list[tuple[int, int]] = []
        self.both = TieredCache(self.first, self.second, on_hits=lambda tier, hits: self.hits.append((tier, hits)))


async def test_the_second_is_asked_once_for_what_the_first_lacks() -> None:
    tiers = Tiers()
    await tiers.first.set_many([(b"a", vector(1))])
    await tiers.second.set_many([(b"b", vector(2)), (b"d", vector(4))])
    found = await tiers.both.get_many([b"d", b"a", b"c", b"b"])
    assert found == [vector(4), vector(1), None, vector(2)]
    assert tiers.second.asked == [[b"d", b"c", b"b"]]
    assert tiers.hits == [(1, 1), (2, 2)]


async def test_the_first_keeps_what_the_second_had() -> None:
    tiers = Tiers()
    await tiers.second.set_many([(b"a", vector(1))])
    await tiers.both.get_many([b"a", b"b"])
    tiers.second.asked.clear()
    assert await tiers.both.get_many([b"a"]) == [vector(1)]
    assert tiers.second.asked == []
    assert tiers.hits == [(2, 1), (1, 1)]


async def test_both_keep_what_was_computed() -> None:
    tiers = Tiers()
    await tiers.both.set_many([(b"a", vector(1))])
    assert await tiers.first.get_many([b"a"]) == await tiers.second.get_many([b"a"]) == [vector(1)]


async def test_nothing_is_asked_for_nothing() -> None:
    tiers = Tiers()
    assert await tiers.both.get_many([]) == []
    assert (tiers.second.asked, tiers.hits) == ([], [])


SPEC = TextSpec(
    name="m", version="v", sha256="s", dimensions=2, max_tokens=8, positions=8, arithmetic="openvino cpu f32"
)


class OneModel:
    """A registry of one model that gives every text the same vector."""

    def __init__(self, spec: TextSpec) -> None:
        prepared = PreparedText(np.array([1, 2], dtype=np.int64), 2, False)
        model = SimpleNamespace(spec=spec, prepare=lambda text, **options: prepared)
        self._served = SimpleNamespace(name="m", version="1", is_simulated=False, model=model, runner=self)

    def text(self, name: str | None, subject: str) -> Any:
        return self._served

    async def submit(self, items: Sequence[Any], **where: Any) -> list[Any]:
        return [Finished(np.array([3.0, 4.0], dtype=np.float32), 0.0, 0.0) for _ in items]


async def is_cached(cache: VectorCache, organisation: str, *, spec: TextSpec = SPEC, shared: bool = False) -> bool:
    """Embed one text for an organisation, in a worker of its own, and say whether it was in the cache."""
    registry: Any = OneModel(spec)
    ticket: Any = SimpleNamespace(
        caller=SimpleNamespace(subject=organisation), tenant=organisation, cached_for=organisation, deadline=0.0, followed_by=None,
        meter=Meter(),
    )  # fmt: skip
    service = TextService(registry, cache, share_cache=shared)
    return (await service.embed(ticket, EmbedRequest(texts=["hello"]))).items[0].cached


async def test_organisations_share_no_vectors() -> None:
    tiers = Tiers()
    assert [await is_cached(tiers.both, name) for name in ("ann", "bob", "ann")] == [False, False, True]


async def test_organisations_share_vectors_when_that_is_asked_for() -> None:
    tiers = Tiers()
    assert [await is_cached(tiers.both, name, shared=True) for name in ("ann", "bob")] == [False, True]


@pytest.mark.parametrize("arithmetic", ["openvino cpu bf16", "openvino cpu int8", "onnxruntime cpu f32"])
async def test_workers_of_different_arithmetic_share_no_vectors(arithmetic: str) -> None:
    tiers = Tiers()
    specs = (SPEC, replace(SPEC, arithmetic=arithmetic), replace(SPEC))
    assert [await is_cached(tiers.both, "ann", spec=spec) for spec in specs] == [False, False, True]
