"""Quotas that only warn."""

from __future__ import annotations

import asyncio

from clocks import HandClock
from phalanx.services.metering.quotas import SoftQuotas


class Ledger:
    """A ledger that knows one organisation's requests, month by month."""

    def __init__(self) -> None:
        self.requests = {"2026-01": 10, "2026-02": 1}

    async def requests_by_organisation(self, *, since: float) -> dict[str, int]:
        return {"a@b": self.requests["2026-01" if since < JANUARY + 31 * 86400 else "2026-02"]}


JANUARY = 1_767_225_600.0


def test_the_ledgers_count_and_what_was_made_since_add_up() -> None:
    """And a refresh counts nothing twice; a new month starts anew."""

    async def scenario() -> None:
        ledger, clock = Ledger(), HandClock()
        clock.epoch = JANUARY + 1_000
        quotas = SoftQuotas(ledger, clock)  # type: ignore[arg-type]
        await quotas.refresh()
        assert [quotas.count("a@b"), quotas.count("a@b"), quotas.count("c@d")] == [11, 12, 1]
        ledger.requests["2026-01"] = 12
        await quotas.refresh()
        assert quotas.count("a@b") == 13
        clock.epoch += 31 * 86400
        await quotas.refresh()
        assert quotas.count("a@b") == 2

    asyncio.run(scenario())
