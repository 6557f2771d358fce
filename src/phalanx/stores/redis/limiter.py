"""The limiter in Redis: one script takes all windows of a call, for all workers."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from phalanx.errors import Unavailable
from phalanx.ports import NO_LIMIT, Allowance, Clock, Grant, QuotaDecision, RateDecision
from phalanx.stores.redis.client import FAILURES, redis_failures, unavailable
from phalanx.stores.redis.scripts import ScriptCall, ScriptConnection, load_script

KEY_PREFIX = "phalanx:limits:"
LEASE_S = 30.0
CLAIM_S = 30
QUOTA_KEPT_S = 45 * 86_400
SETTLE_AFTER_S = 0.002
CLOSE_S = 1.0
BUSY_RETRY_S = 1.0
MAX_BATCH = 500
UNLIMITED = -1
US_PER_S = 1_000_000
US_PER_MINUTE = 60 * US_PER_S

TAKE, SETTLE, RENEW, FILL, USED = (load_script(name) for name in ("take", "settle", "renew", "fill", "used"))
LOST = "the counters of limits were lost; they are being filled from the ledger"


class _Lease:
    """What a call under way holds: a permit, or one of a month's quota, or both, of one generation of counters."""

    __slots__ = ("generation", "period", "permit", "quota", "renewed_at", "subject")

    def __init__(self, subject: str, period: str, *, permit: bool, quota: bool, renewed_at: float) -> None:
        self.subject = subject
        self.period = period
        self.permit = permit
        self.quota = quota
        self.renewed_at = renewed_at
        self.generation = b""


class _Settling(NamedTuple):
    """An entry of a settle batch: the end of a lease, or, without one, a charge."""

    subject: str
    period: str
    lease: str
    billed: int
    generation: bytes


class _Waiting(NamedTuple):
    """A script call whose answer somebody waits for."""

    call: ScriptCall
    answer: asyncio.Future[Any]


class RedisLimiter:
    """A `SharedLimiter` by scripts. Rates as in memory, in microseconds of Redis's clock.

    A subject has the arrival time of its rate, a sorted set of the leases of open calls, and for each month a sorted set
    of reserved leases and a count of what is settled. Each lease runs out after `lease_s` (seconds) unless it is renewed,
    so what a dead worker held comes back by itself. A month is kept until 45 days after its last call.

    Scripts go over one connection; those that wait together share a round trip, and what was settled before goes ahead of
    what is taken. Settling waits for nobody: it rides with the next call, or follows within two milliseconds. A batch of
    it carries a number, so that Redis applies it once although it is sent until it is answered. What is billed is in the
    ledger before it is settled here: a worker that is killed leaves out of the count at most its calls under way and those
    of the last two milliseconds.

    A Redis that comes back without its last second (`appendfsync everysec`) has forgotten what was counted in it.

    A marker names the generation of the counters. Without it nothing is taken, since Redis has forgotten what was used;
    what was taken under another generation is not counted, since `fill` had it from the ledger.

    Redis must not evict (`maxmemory-policy noeviction`). It is one server with its replicas, not a cluster, since the
    marker stands for the keys of all subjects.
    """

    def __init__(self, redis: Redis, clock: Clock, *, prefix: str = KEY_PREFIX, lease_s: float = LEASE_S) -> None:
        self._redis = redis
        self._now = clock.monotonic
        self._prefix = prefix
        self._marker = f"{prefix}generation"
        self._name = secrets.token_hex(8)
        self._batch_key = f"{prefix}batch:{self._name}"
        self._lease_ms = round(lease_s * 1e3)
        self._renew_after_s = lease_s / 3
        self._connection = ScriptConnection(redis, (TAKE, SETTLE, RENEW, FILL, USED))
        self._generation = b""
        self._leases: dict[str, _Lease] = {}
        self._settlings: list[_Settling] = []
        self._charges: dict[tuple[str, str, bytes], int] = {}
        self._batch = 0
        self._unconfirmed: ScriptCall | None = None
        self._refusal: ResponseError | None = None
        self._waiting: list[_Waiting] = []
        self._sending: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_down = False

    async def take(self, subject: str, allowance: Allowance, *, period: str, lease: str) -> Grant:
        """Take one request of the rate, of the calls open at once and of the month's quota, or nothing of them.

        Raises `Unavailable` when Redis does not answer in time, or has lost its counters.
        """
        if allowance == NO_LIMIT:
            return Grant(subject, period, lease, allowance)
        call = self._take(subject, allowance, period, lease)
        held = self._hold(subject, allowance, period, lease)
        try:
            reply = await self._ask(call)
            if reply[0] == b"lost":
                raise Unavailable(LOST)
        except BaseException:
            # Redis may have done it all the same.
            self._end(lease, billed=False)
            raise
        if reply[1] != self._generation:
            self._enter(reply[1])
        if reply[0]:
            self._leases.pop(lease, None)
        elif held is not None:
            held.generation = reply[1]
        return _grant(subject, allowance, period, lease, reply)

    async def settle(self, grant: Grant, *, billed: bool) -> None:
        """Give back a granted call's permit, and, unless it is billed, its quota. Waits for nothing."""
        self._end(grant.lease, billed=billed)

    async def used(self, subject: str, period: str) -> int:
        """Return what is settled and reserved of a month's quota. Raises `Unavailable`."""
        keys = (self._key("reserved", period, subject), self._key("used", period, subject))
        return int(await self._ask(ScriptCall(USED, keys, ())))

    async def fill(self, period: str, used: Mapping[str, int]) -> None:
        """Set the settled counts of a month to what the ledger says, where that is more. Raises `Unavailable`."""
        counts = list(used.items())
        for start in range(0, len(counts), MAX_BATCH):
            part = counts[start : start + MAX_BATCH]
            keys = [self._key("used", period, subject) for subject, _ in part]
            await self._ask(ScriptCall(FILL, keys, (QUOTA_KEPT_S, *(count for _, count in part))))

    async def renew(self) -> None:
        """Prolong the leases of calls under way, and see that the counters can be used. Raises `Unavailable`."""
        now = self._now()
        old = [(name, held) for name, held in self._leases.items() if now - held.renewed_at >= self._renew_after_s]
        for start in range(0, max(len(old), 1), MAX_BATCH):
            part = old[start : start + MAX_BATCH]
            keys, args = [self._marker], [str(self._lease_ms)]
            for name, held in part:
                keys += (self._key("open", held.subject), self._key("reserved", held.period, held.subject))
                args.append(name)
            if not await self._ask(ScriptCall(RENEW, keys, args)):
                raise Unavailable(LOST)
            for _, held in part:
                held.renewed_at = now

    def charge(self, subject: str, period: str, count: int) -> None:
        """Count quota that was used without asking here, as soon as Redis can be reached."""
        key = (subject, period, self._generation)
        self._charges[key] = self._charges.get(key, 0) + count
        self._settle_within(SETTLE_AFTER_S)

    async def flush(self) -> None:
        """Bring what was settled and charged into the counters. Raises `Unavailable`; nothing is lost then."""
        while self._has_unsettled or self._unconfirmed is not None:
            # Whatever is asked, settling goes ahead of it.
            await self._ask(ScriptCall(RENEW, (self._marker,), (self._lease_ms,)))
            if self._refusal is not None:
                raise unavailable(self._refusal)

    async def is_counting(self) -> bool:
        """Whether the marker is there. Raises `Unavailable`."""
        generation = await self._ask(ScriptCall(RENEW, (self._marker,), (self._lease_ms,)))
        if generation is None:
            return False
        self._enter(generation)
        return True

    async def claim_rebuild(self) -> bool:
        """Whether it is for this worker to fill lost counters. Raises `Unavailable`."""
        key = f"{self._prefix}rebuild"
        with redis_failures():
            if await self._redis.set(key, self._name, nx=True, ex=CLAIM_S):
                return True
            return await self._redis.get(key) == self._name.encode()

    async def begin_counting(self) -> None:
        """Set the marker, if nobody has. Raises `Unavailable`."""
        with redis_failures():
            await self._redis.set(self._marker, secrets.token_hex(8), nx=True)
        await self.is_counting()

    async def close(self) -> None:
        """Flush what can be flushed within a second and let go of the connection."""
        with suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self.flush()
        if self._timer is not None:
            self._timer.cancel()
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)
        with suppress(*FAILURES):
            await self._connection.close()

    def _take(self, subject: str, allowance: Allowance, period: str, lease: str) -> ScriptCall:
        rate, monthly, concurrent = allowance
        interval = capacity = 0
        if rate is not None:
            if rate.per_minute < 1 or rate.burst < 0:
                raise ValueError(f"{rate}: per_minute is at least 1, burst at least 0")
            interval, capacity = -(-US_PER_MINUTE // rate.per_minute), rate.burst or 1
        keys = (
            self._marker, self._key("rate", subject), self._key("open", subject),
            self._key("reserved", period, subject), self._key("used", period, subject),
        )  # fmt: skip
        args = (
            interval, capacity, UNLIMITED if concurrent is None else concurrent, UNLIMITED if monthly is None else monthly,
            lease, self._lease_ms,
        )  # fmt: skip
        return ScriptCall(TAKE, keys, args)

    def _hold(self, subject: str, allowance: Allowance, period: str, lease: str) -> _Lease | None:
        permit, quota = allowance.concurrent is not None, allowance.monthly is not None
        if not (permit or quota):
            return None
        held = self._leases[lease] = _Lease(subject, period, permit=permit, quota=quota, renewed_at=self._now())
        return held

    def _end(self, lease: str, *, billed: bool) -> None:
        held = self._leases.pop(lease, None)
        if held is None:
            return
        count = int(billed and held.quota)
        self._settlings.append(_Settling(held.subject, held.period, lease, count, held.generation))
        # A caller's next call may come to another worker at once: its permit must be there.
        self._settle_within(0 if held.permit else SETTLE_AFTER_S)

    def _enter(self, generation: bytes) -> None:
        """Note which generation counts. What was charged before any was known belongs to the first."""
        if not self._generation:
            early = {key: count for key, count in self._charges.items() if not key[2]}
            for (subject, period, nothing), count in early.items():
                del self._charges[subject, period, nothing]
                self._charges[subject, period, generation] = count
        self._generation = generation

    def _settle_within(self, seconds: float) -> None:
        if self._is_down or self._sending is not None:
            return
        if seconds == 0:
            self._wake()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._wake)

    def _ask(self, call: ScriptCall) -> asyncio.Future[Any]:
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(call, answer))
        self._wake()
        return answer

    def _wake(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._sending is None:
            self._sending = asyncio.create_task(self._send(), name="limits")

    async def _send(self) -> None:
        """Send what waits until nothing does. When Redis fails, all who wait are told at once."""
        try:
            while self._waiting or (self._has_unsettled and not self._is_down):
                waiting = [entry for entry in self._waiting[:MAX_BATCH] if not entry.answer.done()]
                del self._waiting[:MAX_BATCH]
                await self._round_trip(self._settle_batch(), waiting)
        finally:
            self._sending = None

    async def _round_trip(self, batch: ScriptCall | None, waiting: list[_Waiting]) -> None:
        calls = [entry.call for entry in waiting] if batch is None else [batch, *(entry.call for entry in waiting)]
        if not calls:
            return
        try:
            answers = await self._connection.run(calls)
        except BaseException as error:
            self._is_down = True
            waiting += self._waiting
            self._waiting = []
            for entry in waiting:
                _fail(entry, error)
            if not isinstance(error, Unavailable):
                raise
            return
        self._is_down = False
        if batch is not None:
            self._confirm(answers.pop(0))
        for entry, answer in zip(waiting, answers, strict=True):
            if isinstance(answer, ResponseError):
                _fail(entry, unavailable(answer))
            elif not entry.answer.done():
                entry.answer.set_result(answer)

    def _confirm(self, answer: Any) -> None:
        self._refusal = answer if isinstance(answer, ResponseError) else None
        if self._refusal is None:
            self._unconfirmed = None
        else:
            self._is_down = True

    @property
    def _has_unsettled(self) -> bool:
        """Whether there is something to settle; what is charged waits until it is known which generation counts."""
        return bool(self._settlings or (self._charges and self._generation))

    def _settle_batch(self) -> ScriptCall | None:
        """Return the batch that was not answered yet, or the next one, or None when there is nothing to settle."""
        if self._unconfirmed is not None or not self._has_unsettled:
            return self._unconfirmed
        entries = self._settlings[:MAX_BATCH]
        del self._settlings[:MAX_BATCH]
        while self._generation and self._charges and len(entries) < MAX_BATCH:
            (subject, period, generation), count = self._charges.popitem()
            entries.append(_Settling(subject, period, "", count, generation))
        self._batch += 1
        keys: list[str] = [self._marker, self._batch_key]
        args: list[str | bytes | int] = [self._batch, QUOTA_KEPT_S]
        for subject, period, lease, billed, generation in entries:
            keys += (
                self._key("open", subject),
                self._key("reserved", period, subject),
                self._key("used", period, subject),
            )
            args += (lease, billed, generation)
        self._unconfirmed = ScriptCall(SETTLE, keys, args)
        return self._unconfirmed

    def _key(self, *parts: str) -> str:
        return self._prefix + ":".join(parts)


def _grant(subject: str, allowance: Allowance, period: str, lease: str, reply: list[Any]) -> Grant:
    """Read the answer of the script: see there."""
    refused, _, remaining, reset, wait, used = reply
    window = refused.decode()
    rate = quota = None
    wait_s = wait / US_PER_S
    if allowance.rate is not None:
        rate = RateDecision(window != "rate", allowance.rate.burst or 1, remaining, reset / US_PER_S, wait_s)
    if window == "concurrency":
        wait_s = BUSY_RETRY_S
    if used >= 0 and allowance.monthly is not None:
        quota = QuotaDecision(window != "quota", used, allowance.monthly)
    return Grant(subject, period, lease, allowance, window, rate, quota, wait_s)


def _fail(entry: _Waiting, error: BaseException) -> None:
    if not entry.answer.done():
        # Each has an error of its own, or one traceback would grow with each of them.
        detail = error.detail if isinstance(error, Unavailable) else "Redis cannot be used: this worker is leaving it"
        entry.answer.set_exception(Unavailable(detail))
