"""What each tier may do: one table, filled from the settings."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from phalanx.ports import Allowance, RatePolicy
from phalanx.settings import Settings, SettingsError

Count = Annotated[int, Meta(ge=0, le=10**15)]


class TierPolicy(NamedTuple):
    """A tier's row; None is unlimited. `hard` says whether a month's requests are refused past their number, or warned of."""

    rate: RatePolicy | None = None
    concurrency: int | None = None
    monthly_requests: int | None = None
    hard: bool = False

    @property
    def metered(self) -> Allowance:
        """What a call that counts as a request is held to."""
        return Allowance(self.rate, self.monthly_requests if self.hard else None, self.concurrency)

    @property
    def unmetered(self) -> Allowance:
        """What a call about keys, users and the like is held to: whoever used up the month can still look why."""
        return Allowance(self.rate, None, self.concurrency)

    @property
    def soft_limit(self) -> int | None:
        """The month's requests past which callers are warned."""
        return None if self.hard else self.monthly_requests


class TierFields(Struct, frozen=True, forbid_unknown_fields=True):
    """What TIERS_FILE may say of a tier; 0 requests a minute, 0 calls at once and 0 requests a month are no limit."""

    requests_per_minute: Count | UnsetType = UNSET
    burst: Count | UnsetType = UNSET
    concurrency: Count | UnsetType = UNSET
    monthly_requests: Count | UnsetType = UNSET
    hard: bool | UnsetType = UNSET


class TiersFile(Struct, frozen=True, forbid_unknown_fields=True):
    """The file TIERS_FILE: a table for each tier that it changes."""

    anonymous: TierFields = TierFields()
    free: TierFields = TierFields()
    pro: TierFields = TierFields()
    scale: TierFields = TierFields()


def tier_policies(settings: Settings) -> Mapping[str, TierPolicy]:
    """Return the policy of every tier, the anonymous and the operator's included. Raises `SettingsError`."""
    paced = RatePolicy(settings.rate_limit_requests_per_minute, settings.rate_limit_burst)
    rate = paced if settings.rate_limit_enabled else None
    paid = settings.enforce_paid_limits
    table = {
        "anonymous": TierPolicy(rate, None, settings.free_tier_limit, hard=True),
        "free": TierPolicy(rate, None, settings.free_tier_limit, hard=True),
        "pro": TierPolicy(None, None, settings.pro_tier_limit, hard=paid),
        "scale": TierPolicy(None, None, settings.scale_tier_limit, hard=paid),
    }
    if settings.tiers_file is not None:
        changes = _read(settings.tiers_file)
        table = {name: _changed(policy, getattr(changes, name), paced) for name, policy in table.items()}
    return {**table, "operator": TierPolicy()}


def _read(path: Path) -> TiersFile:
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), TiersFile)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise SettingsError([f"TIERS_FILE: {path.name} cannot be used ({error})."]) from None


def _changed(policy: TierPolicy, fields: TierFields, paced: RatePolicy) -> TierPolicy:
    rate = policy.rate or paced
    per_minute = rate.per_minute if fields.requests_per_minute is UNSET else fields.requests_per_minute
    burst = rate.burst if fields.burst is UNSET else fields.burst
    limited = policy.rate is not None or fields.requests_per_minute is not UNSET
    return TierPolicy(
        rate=RatePolicy(per_minute, burst) if limited and per_minute else None,
        concurrency=policy.concurrency if fields.concurrency is UNSET else fields.concurrency or None,
        monthly_requests=policy.monthly_requests
        if fields.monthly_requests is UNSET
        else fields.monthly_requests or None,
        hard=policy.hard if fields.hard is UNSET else fields.hard,
    )
