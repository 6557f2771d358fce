"""Limits that all workers share, and what each does with its share while they cannot be shared."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import Any

from phalanx.errors import Unavailable
from phalanx.ports import (
    NO_LIMIT,
    Allowance,
    Clock,
    Grant,
    Limiter,
    QuotaDecision,
    RateDecision,
    RatePolicy,
    SharedLimiter,
    UsageLog,
    Workers,
)
from phalanx.services.metering.periods import month_of, month_start
from phalanx.telemetry import Log

BEAT_S = 3.0
BEATS_REMEMBERED = 4
"""More than a worker is believed to live on without a beat: whoever did not beat in this time is gone."""
READ_S = 60.0
PROBE_S = 1.0
START_S = 2.0
BOOKS_S = 15.0
BOOKS_PAUSE_S = 0.5
MAX_SEEN = 100_000


class SharedLimits:
    """A `Limiter` over the shared one. While that is out of reach each worker goes on with its share of each window.

    The first failure, or an answer that takes longer than the shared limiter waits, ends its use: later calls do not wait
    for it, and a task tries each second whether it is back. Meanwhile a call is held to the limit divided by the number of
    live workers, rounded down, so that all together stay within it: requests a minute, the burst, calls at once, and what
    was left of the month. A share of 0 refuses. The grants say `degraded`.

    What was left of the month is told by what this worker last saw of the shared count and by the ledger, which is read
    each minute and when the limiter is lost. So a month's quota is passed by no more than what was billed in the seconds
    before that neither had, and calls under way; a rate by one burst when its sharing ends and one when it begins again,
    since each side starts with the allowance that time has given back; calls at once by those that were open at the change.

    Coming back, a worker first charges what it used to the shared counters, goes on with its share for as long as the
    others may take to do the same, and only then asks the shared limiter again. When that comes back empty, one worker
    waits until the ledger has what was billed before (15 s at most), fills the counters from it, and fills them again once
    the ledger has what was billed meanwhile. Until then they may lack that; after, the calls of one flush of the journals.

    The number of workers is the highest of the last four beats, since the beats of others come later than one's own when
    they are counted anew, and never less than `least_workers`, which stands for those that were never heard of.
    """

    def __init__(
        self,
        shared: SharedLimiter,
        local: Limiter,
        workers: Workers,
        usage: UsageLog,
        clock: Clock,
        *,
        log: Log,
        worker_id: str,
        least_workers: int = 1,
        probe_s: float = PROBE_S,
    ) -> None:
        """`probe_s` (seconds) is the time between two attempts to find the shared limiter again."""
        self._shared = shared
        self._local = local
        self._workers = workers
        self._usage = usage
        self._clock = clock
        self._log = log
        self._worker_id = worker_id
        self._probe_s = probe_s
        self._counts = deque([least_workers], BEATS_REMEMBERED)
        self._least_workers = least_workers
        self._seen: dict[str, tuple[str, int]] = {}
        self._ledger: tuple[str, Mapping[str, int]] = ("", {})
        self._counted: set[str] = set()
        self._spent: dict[tuple[str, str], int] = {}
        self._recovery: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def degraded(self) -> bool:
        """Whether this worker goes by its share."""
        return self._recovery is not None

    @property
    def live_workers(self) -> int:
        """By how many a limit is divided while this worker goes by its share."""
        return max(self._least_workers, *self._counts)

    async def start(self) -> None:
        """Look whether the counters are whole, fill them if not, and keep watch. Never raises, and takes seconds at most."""
        await self._beat()
        await self._read_ledger()
        try:
            async with asyncio.timeout(START_S):
                if not await self._shared.is_counting():
                    await self._rebuild()
        except TimeoutError:
            self._lose(Unavailable("the ledger is not complete yet"))
        except Unavailable as error:
            self._lose(error)
        self._run(self._keep_beating())
        self._run(self._keep_reading())

    async def close(self) -> None:
        """Bring what was settled into the shared counters if they can be reached. Never raises."""
        tasks = [*self._tasks, *([self._recovery] if self._recovery else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._workers.leave(self._worker_id)
        await self._shared.close()

    async def take(self, subject: str, allowance: Allowance, *, period: str, lease: str) -> Grant:
        """Take one request of the rate, of the calls open at once and of the month's quota, or nothing of them.

        Without any limit nobody is asked.
        """
        if allowance == NO_LIMIT:
            return Grant(subject, period, lease, allowance)
        if self._recovery is None:
            try:
                grant = await self._shared.take(subject, allowance, period=period, lease=lease)
            except Unavailable as error:
                self._lose(error)
            else:
                if grant.quota is not None:
                    self._note(subject, period, grant.quota.used)
                return grant
        return await self._take_share(subject, allowance, period, lease)

    async def settle(self, grant: Grant, *, billed: bool) -> None:
        """End a grant on the side that gave it. What is billed of a share is charged to the shared counters."""
        if not grant.degraded:
            await self._shared.settle(grant, billed=billed)
            return
        # The local side holds only what is under way; what was spent is kept here, from one loss to the recovery.
        await self._local.settle(grant, billed=False)
        is_counted = grant.lease in self._counted
        self._counted.discard(grant.lease)
        if billed and is_counted:
            self._shared.charge(grant.subject, grant.period, 1)
            if self._recovery is not None:
                month = (grant.subject, grant.period)
                self._spent[month] = self._spent.get(month, 0) + 1

    async def used(self, subject: str, period: str) -> int:
        """Return what is settled and reserved of a month's quota, as far as this worker can know."""
        if self._recovery is None:
            with suppress(Unavailable):
                return await self._shared.used(subject, period)
        own = self._spent.get((subject, period), 0) + await self._local.used(subject, period)
        return self._known(subject, period) + own

    async def fill(self, period: str, used: Mapping[str, int]) -> None:
        """Raise the shared counters to what the ledger says. Raises `Unavailable`."""
        await self._shared.fill(period, used)

    async def _take_share(self, subject: str, allowance: Allowance, period: str, lease: str) -> Grant:
        policy, monthly, concurrent = allowance
        workers = self.live_workers
        rate = None if policy is None else _divided(policy, workers)
        if policy is not None and rate is None:
            nothing = RateDecision(False, policy.burst or 1, 0, self._probe_s, self._probe_s)
            return Grant(subject, period, lease, allowance, "rate", nothing, None, self._probe_s, degraded=True)
        known, spent, left = self._known(subject, period), self._spent.get((subject, period), 0), None
        if monthly is not None:
            left = max(0, monthly - known) // workers - spent
        share = Allowance(rate, left, None if concurrent is None else concurrent // workers)
        grant = await self._local.take(subject, share, period=period, lease=lease)
        grant = grant._replace(allowance=allowance, degraded=True)
        if monthly is None or grant.quota is None:
            return grant
        if not grant.refused:
            self._counted.add(lease)
        quota = QuotaDecision(grant.quota.allowed, known + spent + grant.quota.used, monthly)
        # Another worker's share, or the shared count, may have room where this one has not.
        wait_s = self._probe_s if grant.refused == "quota" and quota.used < monthly else grant.retry_after_s
        return grant._replace(quota=quota, retry_after_s=wait_s)

    def _known(self, subject: str, period: str) -> int:
        """Return what was used of a month before the loss, as far as this worker knows."""
        ledger_period, ledger = self._ledger
        seen_period, seen = self._seen.get(subject, ("", 0))
        return max(ledger.get(subject, 0) if ledger_period == period else 0, seen if seen_period == period else 0)

    def _note(self, subject: str, period: str, used: int) -> None:
        if len(self._seen) >= MAX_SEEN and subject not in self._seen:
            self._seen.clear()
        self._seen[subject] = (period, used)

    def _lose(self, error: Unavailable) -> None:
        if self._recovery is None:
            self._log.warning("each worker limits its share", reason=error.detail, workers=self.live_workers)
            self._recovery = asyncio.create_task(self._recover(), name="limits recovery")

    async def _recover(self) -> None:
        try:
            await self._read_ledger()
            is_back = False
            while not is_back:
                try:
                    await self._come_back()
                    is_back = True
                except Unavailable:
                    await asyncio.sleep(self._probe_s)
            self._log.info("limits are shared again")
        finally:
            self._recovery = None
            # Should the sharing end again before the shared count of these is asked for, they are not forgotten.
            for (subject, period), spent in self._spent.items():
                self._note(subject, period, self._known(subject, period) + spent)
            self._spent.clear()

    async def _come_back(self) -> None:
        """Charge what was used, and wait for the others to do so. Raises `Unavailable` when it is too early."""
        if not await self._shared.is_counting():
            await self._rebuild()
        await self._shared.flush()
        # They too try each `probe_s`.
        await asyncio.sleep(2 * self._probe_s)
        await self._shared.renew()

    async def _rebuild(self) -> None:
        """Fill lost counters. Raises `Unavailable`, also when another worker does it."""
        if not await self._shared.claim_rebuild():
            raise Unavailable("another worker fills the counters")
        await self._fill_from_ledger(self._clock.now())
        await self._shared.begin_counting()
        self._log.warning("the counters of limits were filled from the ledger")
        # By then all workers have noticed; what they billed before, under no generation, is in the ledger only.
        self._run(self._fill_again(self._clock.now() + 2 * self._probe_s))

    async def _fill_again(self, instant: float) -> None:
        with suppress(Unavailable):
            await self._fill_from_ledger(instant)

    async def _fill_from_ledger(self, complete_until: float) -> None:
        """Fill the month's counters once the ledger has what was billed before an instant, or 15 seconds later."""
        give_up = self._clock.monotonic() + BOOKS_S
        while True:
            # To read it is also to bring there what this worker has billed.
            await self._requests()
            if self._clock.monotonic() >= give_up or await self._usage.complete_until() >= complete_until:
                break
            await asyncio.sleep(BOOKS_PAUSE_S)
        await self._shared.fill(*await self._requests())

    async def _requests(self) -> tuple[str, Mapping[str, int]]:
        period = month_of(self._clock.now())
        return period, await self._usage.requests_by_organisation(since=month_start(period))

    async def _read_ledger(self) -> None:
        with suppress(Unavailable):
            self._ledger = await self._requests()

    async def _beat(self) -> None:
        with suppress(Unavailable):
            self._counts.append(await self._workers.beat(self._worker_id))

    async def _keep_beating(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            await self._beat()
            if self._recovery is None:
                try:
                    await self._shared.renew()
                except Unavailable as error:
                    self._lose(error)

    async def _keep_reading(self) -> None:
        while True:
            await asyncio.sleep(READ_S)
            if self._recovery is None:
                await self._read_ledger()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="limits")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _divided(policy: RatePolicy, workers: int) -> RatePolicy | None:
    """Return a worker's share of a rate; None when nothing is left of it."""
    share = RatePolicy(policy.per_minute // workers, (policy.burst or 1) // workers)
    return share if min(share) > 0 else None
