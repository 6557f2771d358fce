"""What is kept for a while."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeVar

V = TypeVar("V")


class CachedVector(NamedTuple):
    """What the cache keeps of one text: raw float32 bytes (not normalised), its token counts, whether it was cut."""

    vector: bytes
    tokens: int
    used_tokens: int


class Cache(Protocol[V]):
    """Values by the digest of what they were computed from. Down: every look-up is a miss; never an error."""

    async def get_many(self, keys: Sequence[bytes]) -> list[V | None]:
        """Return what is kept under each key, in order; None where there is nothing."""
        ...

    async def set_many(self, entries: Sequence[tuple[bytes, V]]) -> None:
        """Keep values under their keys."""
        ...


class VectorCache(Cache[CachedVector], Protocol):
    """Vectors of texts. Down: every look-up is a miss; never an error."""


class ResultCache(Cache[bytes], Protocol):
    """What was computed of images, encoded. Down: every look-up is a miss; never an error."""


class IdempotencyStore(Protocol):
    """Answers by `Idempotency-Key`, bounded in number and age. Down: `unavailable` for calls that carry a key."""

    async def begin(self, key: str, fingerprint: bytes) -> bytes | None:
        """Claim a key for a request; None: go on; bytes: the stored answer of the same request.

        Raises `Conflict` while the first one is under way and `IdempotencyMismatch` for another request.
        """
        ...

    async def finish(self, key: str, answer: bytes | None) -> None:
        """Store the answer, or, with None, free the key so that a failed call can be tried again."""
        ...
