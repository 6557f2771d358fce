"""Answers by `Idempotency-Key` in Redis."""

from __future__ import annotations

import asyncio
import secrets

from redis.asyncio import Redis

from phalanx.errors import Conflict, IdempotencyMismatch
from phalanx.stores.redis.client import FAILURES, redis_failures
from phalanx.stores.redis.scripts import load_script
from phalanx.telemetry import Log

KEY_PREFIX = "phalanx:idempotency:"
AGES_PREFIX, SIZES_PREFIX = "phalanx:idempotency-ages:", "phalanx:idempotency-sizes:"
SEPARATOR = "\x1f"
ANSWER_KEPT_S = 24 * 3600.0
CLAIM_LEASE_S = 300.0
MAX_ANSWER_BYTES = 2**20
MAX_BYTES_PER_SUBJECT = 64 * 2**20
ENTRY_BYTES = 256
"""What Redis needs for an answer besides its text, about: the key three times over, and its places in tables."""
WITHDRAW_AFTER_S = (0.0, 1.0, 4.0)
MAX_WITHDRAWALS = 32
CLOSE_TIMEOUT_S = 1.0

CLAIM, ANSWER = b"c", b"a"
NONCE_BYTES = 16

FINISH = load_script("finish")


class RedisIdempotencyStore:
    """An `IdempotencyStore` that all workers share; one value a key, first a claim, then an answer.

    Answers live for `answer_kept_s`, claims for `lease_s` (seconds), which must outlast any call: that of a worker that
    died frees its key by then. An answer of more than `max_answer_bytes` is not kept: its key is free, and a repetition
    computes it anew. The answers of one subject, which is what stands before the first separator (U+001F) of a key, take
    `max_bytes_per_subject` at most: its oldest make room for new ones. Which those are is kept in two tables beside them.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        log: Log,
        answer_kept_s: float = ANSWER_KEPT_S,
        lease_s: float = CLAIM_LEASE_S,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        max_bytes_per_subject: int = MAX_BYTES_PER_SUBJECT,
    ) -> None:
        self._redis = redis
        self._log = log
        self._answer_kept_ms = round(answer_kept_s * 1e3)
        self._lease_ms = round(lease_s * 1e3)
        self._max_answer_bytes = max_answer_bytes
        self._max_bytes_per_subject = max_bytes_per_subject
        self._finish = redis.register_script(FINISH.text)
        self._claims: dict[str, bytes] = {}
        self._withdrawals: set[asyncio.Task[None]] = set()

    async def begin(self, key: str, fingerprint: bytes) -> bytes | None:
        """Claim a key for a request; None: go on; bytes: the stored answer of the same request.

        Raises `Conflict` while the first one is under way, `IdempotencyMismatch` for another request, and
        `Unavailable` when Redis is down.
        """
        claim = _value(CLAIM, fingerprint, secrets.token_bytes(NONCE_BYTES))
        try:
            with redis_failures():
                known = await self._claim(key, claim)
        except BaseException:
            # Redis may have done it all the same, and nobody would end this claim.
            self._withdraw(key, claim)
            raise
        if known == claim:
            self._claims[key] = claim
            return None
        kind, known_fingerprint, rest = _parts(known)
        if known_fingerprint != fingerprint:
            raise IdempotencyMismatch
        if kind == ANSWER:
            return rest
        raise Conflict("the first call with this Idempotency-Key is still under way", retry_after_s=1.0)

    async def finish(self, key: str, answer: bytes | None) -> None:
        """Store the answer, or, with None, free the key so that a failed call can be tried again.

        A key whose claim has run out is left alone: it may be another call's by now. Never raises, since the call is
        done and billed: when Redis is down meanwhile, the claim stays until its lease runs out.
        """
        claim = self._claims.pop(key, None)
        if claim is None:
            return
        value = b""
        if answer is not None and len(answer) <= self._max_answer_bytes:
            value = _value(ANSWER, _parts(claim)[1], answer)
        if not await self._replace(key, claim, value):
            self._log.warning("an answer was not kept under its Idempotency-Key", lease_s=self._lease_ms / 1e3)

    async def close(self) -> None:
        """Wait a second for claims that are being withdrawn; the connection is its owner's."""
        if self._withdrawals:
            _, late = await asyncio.wait(self._withdrawals, timeout=CLOSE_TIMEOUT_S)
            for withdrawal in late:
                withdrawal.cancel()

    async def _claim(self, key: str, claim: bytes) -> bytes:
        """Set a key unless it is set, and return what it then is."""
        both = self._redis.pipeline(transaction=True)
        both.set(KEY_PREFIX + key, claim, nx=True, px=self._lease_ms)
        both.get(KEY_PREFIX + key)
        return (await both.execute())[1]  # type: ignore[no-any-return]

    def _withdraw(self, key: str, claim: bytes) -> None:
        if len(self._withdrawals) < MAX_WITHDRAWALS:
            task = asyncio.create_task(self._free(key, claim))
            self._withdrawals.add(task)
            task.add_done_callback(self._withdrawals.discard)

    async def _free(self, key: str, claim: bytes) -> None:
        for pause_s in WITHDRAW_AFTER_S:
            await asyncio.sleep(pause_s)
            if await self._replace(key, claim, b""):
                return

    async def _replace(self, key: str, claim: bytes, value: bytes) -> bool:
        """Put a value in the place of a claim, or, without one, free the key. False when Redis is down."""
        try:
            subject = key.partition(SEPARATOR)[0]
            keys = [KEY_PREFIX + key, f"{AGES_PREFIX}{subject}", f"{SIZES_PREFIX}{subject}"]
            limits = (self._answer_kept_ms, self._max_bytes_per_subject, ENTRY_BYTES)
            await self._finish(keys=keys, args=[claim, value, *limits])
        except FAILURES:
            return False
        return True


def _value(kind: bytes, fingerprint: bytes, rest: bytes) -> bytes:
    return kind + len(fingerprint).to_bytes(1, "big") + fingerprint + rest


def _parts(value: bytes) -> tuple[bytes, bytes, bytes]:
    end = 2 + value[1]
    return value[:1], value[2:end], value[end:]
