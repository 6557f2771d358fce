"""The seams of Phalanx as Protocols, each with what happens when what stands behind it is down.

Every port has an in-process adapter (`stores/memory`) and a real one; `tests/ports` runs one suite on both.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from phalanx.contract.keys import KeyRecord
from phalanx.contract.usage import UsageEvent, UsageTotals

P_contra = TypeVar("P_contra", bound="Prepared", contravariant=True)
R_co = TypeVar("R_co", covariant=True)
P = TypeVar("P", bound="Prepared")
R = TypeVar("R")


class KeyStore(Protocol):
    """API keys by the SHA-256 of their text. Down: the call fails closed with `unavailable`."""

    async def find(self, digest: str) -> KeyRecord | None:
        """Return the key with this hex SHA-256, revoked and expired ones too, or None."""
        ...

    async def add(self, record: KeyRecord) -> None:
        """Store a new key. Raises `Conflict` when its id or digest is already there."""
        ...

    async def list(self, *, organisation: str | None = None) -> list[KeyRecord]:
        """Return all keys, or those of one organisation, oldest first."""
        ...

    async def revoke(self, key_id: str, *, at: float) -> KeyRecord | None:
        """Mark a key revoked at `at` (epoch seconds); a second time keeps the first time. None if there is none."""
        ...

    async def ping(self) -> None:
        """Return when the store answers; raise `Unavailable` when it does not."""
        ...

    async def close(self) -> None:
        """Give back what the adapter holds."""
        ...


class UsageLog(Protocol):
    """The ledger: one event an admitted call, idempotent on the event's id. Down: `unavailable`, nothing is half written."""

    async def record(self, events: Sequence[UsageEvent]) -> int:
        """Append events; ids that are there already change nothing. Returns how many were new."""
        ...

    async def totals(self, *, organisation: str | None = None, since: float = 0.0, until: float = 1e12) -> UsageTotals:
        """Sum the events with `since <= at < until` (epoch seconds), of one organisation or of all."""
        ...

    async def requests_by_organisation(self, *, since: float) -> dict[str, int]:
        """Count the billable requests since an instant, for filling quota counters at start."""
        ...

    async def ping(self) -> None:
        """Return when the ledger answers; raise `Unavailable` when it does not."""
        ...

    async def close(self) -> None:
        """Give back what the adapter holds, what is not written yet first."""
        ...


class RatePolicy(NamedTuple):
    """A GCRA limit: `per_minute` requests sustained, `burst` at once after a pause (0 counts as 1)."""

    per_minute: int
    burst: int


class RateDecision(NamedTuple):
    """What the limiter said. Seconds are relative to now; `remaining` is how many calls would pass at once."""

    allowed: bool
    limit: int
    remaining: int
    reset_after_s: float
    retry_after_s: float


class RateLimiter(Protocol):
    """Requests a minute, one atomic call. Down: open, with each worker's own share (the real adapter says so)."""

    async def take(self, subject: str, policy: RatePolicy, *, cost: int = 1) -> RateDecision:
        """Take `cost` requests of a subject's rate, all or none."""
        ...


class QuotaDecision(NamedTuple):
    """Whether a reservation fits: `used` counts what is settled and reserved, this one included if allowed."""

    allowed: bool
    used: int
    limit: int


class QuotaStore(Protocol):
    """Counters for a month, reserved before and settled after the work. Down: as the limiter."""

    async def reserve(self, subject: str, period: str, amount: int, *, limit: int | None) -> QuotaDecision:
        """Add `amount` to a counter unless that passes `limit` (None: no limit). All or none."""
        ...

    async def settle(self, subject: str, period: str, *, reserved: int, actual: int) -> None:
        """Replace a reservation by what was really used; `actual=0` gives it back."""
        ...


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


class Prepared(Protocol):
    """One item ready for the engine."""

    @property
    def length(self) -> int:
        """Tokens of this item before padding, special tokens included; at least 1."""
        ...


class Engine(Protocol[P_contra, R_co]):
    """Maths over a batch: synchronous, no network, no clock, no options. Called by one engine thread only."""

    def run(self, batch: Sequence[P_contra]) -> Sequence[R_co]:
        """Compute one result an item, in order; the whole batch fails by raising."""
        ...


class Finished(NamedTuple, Generic[R]):
    """One item's result with the seconds it waited in the queue and spent in the engine."""

    value: R
    queue_s: float
    engine_s: float


class Submission(NamedTuple, Generic[P]):
    """One item for the runner; items with an equal `identity` of one tenant are computed once (None: never shared)."""

    item: P
    identity: Hashable | None = None


class Clock(Protocol):
    """Time, so that tests can set it."""

    def now(self) -> float:
        """Seconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go backwards."""
        ...


Json = dict[str, Any]
