"""What is kept for a while."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class CachedVector(NamedTuple):
    """What the cache keeps of one text: raw float32 bytes (not normalised), its token counts, whether it was cut."""

    vector: bytes
    tokens: int
    used_tokens: int


class VectorCache(Protocol):
    """Vectors by content digest. Down: every look-up is a miss; never an error."""

    async def get_many(self, keys: Sequence[bytes]) -> list[CachedVector | None]:
        """Return what is kept under each key, in order; None where there is nothing."""
        ...

    async def set_many(self, entries: Sequence[tuple[bytes, CachedVector]]) -> None:
        """Keep vectors under their keys."""
        ...


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
