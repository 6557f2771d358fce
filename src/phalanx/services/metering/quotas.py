"""Quotas that only warn: how many requests of the month an organisation has made, near enough."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from phalanx.errors import Unavailable
from phalanx.ports import Clock, UsageLog
from phalanx.services.metering.periods import month_of, month_start

REFRESH_S = 60.0


class SoftQuotas:
    """Counts requests without asking anybody: what the ledger said within the last minute, and what was made here since.

    So it costs a paid caller no round trip, and lags behind other workers by a minute at most, which is enough to warn.
    """

    def __init__(self, usage: UsageLog, clock: Clock) -> None:
        self._usage = usage
        self._clock = clock
        self._period = ""
        self._ledger: dict[str, int] = {}
        self._here: dict[str, int] = {}

    def count(self, organisation: str) -> int:
        """Count one request and return how many the month has seen."""
        here = self._here[organisation] = self._here.get(organisation, 0) + 1
        return self._ledger.get(organisation, 0) + here

    async def refresh(self) -> None:
        """Read the ledger. Raises `Unavailable`."""
        period = month_of(self._clock.now())
        # What is counted during the read may be in the ledger's answer or not; counted twice, it warns a little early.
        counted = dict(self._here)
        self._ledger = await self._usage.requests_by_organisation(since=month_start(period))
        if period != self._period:
            self._period, self._here = period, {}
            return
        self._here = {name: count - counted.get(name, 0) for name, count in self._here.items()}

    async def watch(self) -> None:
        """Refresh once a minute, until cancelled."""
        while True:
            with suppress(Unavailable):
                await self.refresh()
            await asyncio.sleep(REFRESH_S)
