"""Answers by `Idempotency-Key` in memory."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from phalanx.errors import Conflict, IdempotencyMismatch, Unavailable
from phalanx.ports import Clock

ANSWER_KEPT_S = 24 * 3600.0
# A call ends its claim itself, on failure too. The lease is for one that cannot, and outlasts any call.
CLAIM_LEASE_S = 2 * 3600.0
MAX_ENTRIES = 10_000
MAX_BYTES = 64 * 2**20
LARGEST_SHARE = 8


class _Claim(NamedTuple):
    fingerprint: bytes
    expires_at: float


class _Answer(NamedTuple):
    fingerprint: bytes
    expires_at: float
    body: bytes


class MemoryIdempotencyStore:
    """An `IdempotencyStore` bounded in number and bytes; the oldest answers make room for new ones.

    Answers live for `answer_kept_s`, claims of calls under way for `lease_s` (seconds of the monotonic clock). An
    answer of more than an eighth of `max_bytes` is not kept: its key is free, and a repetition computes it anew.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        max_entries: int = MAX_ENTRIES,
        max_bytes: int = MAX_BYTES,
        answer_kept_s: float = ANSWER_KEPT_S,
        lease_s: float = CLAIM_LEASE_S,
    ) -> None:
        self._clock = clock
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._answer_kept_s = answer_kept_s
        self._lease_s = lease_s
        # Both are in order of expiry, since every entry of one kind lives equally long.
        self._claims: OrderedDict[str, _Claim] = OrderedDict()
        self._answers: OrderedDict[str, _Answer] = OrderedDict()
        self._bytes = 0

    async def begin(self, key: str, fingerprint: bytes) -> bytes | None:
        """Claim a key for a request; None: go on; bytes: the stored answer of the same request.

        Raises `Conflict` while the first one is under way, `IdempotencyMismatch` for another request, and
        `Unavailable` when as many calls as the store has room for are under way.
        """
        now = self._clock.monotonic()
        self._forget_expired(now)
        known = self._answers.get(key) or self._claims.get(key)
        if known is None:
            if len(self._claims) >= self._max_entries:
                raise Unavailable("too many calls with an Idempotency-Key are under way", retry_after_s=1.0)
            self._claims[key] = _Claim(fingerprint, now + self._lease_s)
            self._make_room()
            return None
        if known.fingerprint != fingerprint:
            raise IdempotencyMismatch
        if isinstance(known, _Answer):
            return known.body
        raise Conflict("the first call with this Idempotency-Key is still under way", retry_after_s=1.0)

    async def finish(self, key: str, answer: bytes | None) -> None:
        """Store the answer, or, with None, free the key so that a failed call can be tried again.

        A key whose claim has run out is left alone: it may be another call's by now.
        """
        claim = self._claims.pop(key, None)
        if claim is None or answer is None or len(answer) * LARGEST_SHARE > self._max_bytes:
            return
        self._answers[key] = _Answer(claim.fingerprint, self._clock.monotonic() + self._answer_kept_s, answer)
        self._bytes += len(answer)
        self._make_room()

    def _forget_expired(self, now: float) -> None:
        while self._answers and next(iter(self._answers.values())).expires_at <= now:
            self._drop_oldest_answer()
        while self._claims and next(iter(self._claims.values())).expires_at <= now:
            self._claims.popitem(last=False)

    def _make_room(self) -> None:
        while self._answers and (
            len(self._claims) + len(self._answers) > self._max_entries or self._bytes > self._max_bytes
        ):
            self._drop_oldest_answer()

    def _drop_oldest_answer(self) -> None:
        _, oldest = self._answers.popitem(last=False)
        self._bytes -= len(oldest.body)
