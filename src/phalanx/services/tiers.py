"""What each tier may do: one table, filled from the settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from phalanx.ports import RatePolicy
from phalanx.settings import Settings


class TierPolicy(NamedTuple):
    """A tier's rate (None: unlimited), its requests a month (None: unlimited), whether that number refuses or warns."""

    rate: RatePolicy | None
    monthly_requests: int | None
    hard: bool


def tier_policies(settings: Settings) -> Mapping[str, TierPolicy]:
    """Return the policy of every tier, the anonymous and the operator's included."""
    paced = RatePolicy(settings.rate_limit_requests_per_minute, settings.rate_limit_burst)
    rate = paced if settings.rate_limit_enabled else None
    paid = settings.enforce_paid_limits
    return {
        "anonymous": TierPolicy(rate, settings.free_tier_limit, hard=True),
        "free": TierPolicy(rate, settings.free_tier_limit, hard=True),
        "pro": TierPolicy(None, settings.pro_tier_limit, hard=paid),
        "scale": TierPolicy(None, settings.scale_tier_limit, hard=paid),
        "operator": TierPolicy(None, None, hard=False),
    }
