"""Stored answers are sealed."""

from __future__ import annotations

import asyncio

from phalanx.services.callers.sealing import SealedAnswers
from phalanx.settings import Secret


class Plain:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes | None] = {}
        self.fingerprints: list[bytes] = []

    async def begin(self, key: str, fingerprint: bytes) -> bytes | None:
        self.fingerprints.append(fingerprint)
        return self.kept.get(key)

    async def finish(self, key: str, answer: bytes | None) -> None:
        self.kept[key] = answer


def test_what_is_stored_shows_nothing_and_comes_back_whole() -> None:
    """Under the same secret and for the same key only."""

    async def scenario() -> None:
        store = Plain()
        sealed = SealedAnswers(store, Secret("a" * 32))
        assert await sealed.begin("a", b"") is None
        await sealed.finish("a", b"fe_secret")
        assert store.kept["a"] is not None
        assert b"fe_secret" not in store.kept["a"]
        assert await sealed.begin("a", b"") == b"fe_secret"
        assert await SealedAnswers(store, Secret("b" * 32)).begin("a", b"") is None
        store.kept["b"] = store.kept["a"]
        assert await sealed.begin("b", b"") is None
        store.kept["c"] = b"short"
        assert await sealed.begin("c", b"") is None
        await sealed.finish("a", None)
        assert store.kept["a"] is None

    asyncio.run(scenario())


def test_a_fingerprint_is_kept_under_a_mac() -> None:
    """The same for the same request, another under another secret, and never what was handed in."""

    async def scenario() -> None:
        store = Plain()
        one, other = SealedAnswers(store, Secret("a" * 32)), SealedAnswers(store, Secret("b" * 32))
        for sealed in (one, one, other):
            await sealed.begin("a", b"digest")
        first, again, elsewhere = store.fingerprints
        assert first == again
        assert len({first, elsewhere, b"digest"}) == 3

    asyncio.run(scenario())
