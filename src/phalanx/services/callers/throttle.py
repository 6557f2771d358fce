"""How often somebody may try to log in, by account and by address, before any password is hashed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from phalanx.errors import RateLimited
from phalanx.ports import Allowance, Clock, Limiter, RatePolicy
from phalanx.services.metering.addresses import limited_by
from phalanx.services.metering.periods import month_of

BY_ACCOUNT = Allowance(rate=RatePolicy(per_minute=10, burst=10))
BY_ADDRESS = Allowance(rate=RatePolicy(per_minute=30, burst=30))
REFRESH_BY_ADDRESS = Allowance(rate=RatePolicy(per_minute=120, burst=60))
"""Refresh tokens cannot be guessed, and many users may sit behind one address."""


class Throttle:
    """Counts a try against an account or an address, however it ends. All methods raise `RateLimited`.

    Somebody who keeps trying passwords of an account also keeps its owner out, by six seconds a try at most.
    """

    def __init__(self, limiter: Limiter, *, clock: Clock, new_id: Callable[[], str]) -> None:
        self._limiter = limiter
        self._clock = clock
        self._new_id = new_id

    async def login(self, *, address: str, email: str) -> None:
        """Take one try to log in."""
        await self.address(address)
        await self.account(email)

    async def account(self, email: str) -> None:
        """Take one try of the account with this email."""
        digest = hashlib.sha256(email.encode("utf-8", "surrogatepass")).hexdigest()
        await self._take(f"login:account:{digest}", BY_ACCOUNT, "of this account")

    async def address(self, address: str) -> None:
        """Take one try to log in, or to sign up, of an address."""
        await self._take(f"login:address:{limited_by(address)}", BY_ADDRESS, "from your address")

    async def refresh(self, address: str) -> None:
        """Take one refresh of an address."""
        await self._take(f"refresh:address:{limited_by(address)}", REFRESH_BY_ADDRESS, "from your address")

    async def _take(self, subject: str, allowance: Allowance, whose: str) -> None:
        # Only a rate is taken, so there is nothing to settle.
        period = month_of(self._clock.now())
        grant = await self._limiter.take(subject, allowance, period=period, lease=self._new_id())
        if grant.refused:
            assert allowance.rate is not None
            raise RateLimited(
                f"{allowance.rate.per_minute} tries a minute {whose} are allowed, with a burst of {allowance.rate.burst}",
                retry_after_s=grant.retry_after_s,
            )
