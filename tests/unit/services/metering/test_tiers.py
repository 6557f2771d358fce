"""The table of tiers: from the settings, changed by a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from phalanx.ports import NO_LIMIT, Allowance, RatePolicy
from phalanx.services.metering.tiers import TierPolicy, tier_policies
from phalanx.settings import Settings, SettingsError


def policies(tmp_path: Path, text: str) -> dict[str, TierPolicy]:
    path = tmp_path / "tiers.toml"
    path.write_text(text)
    return dict(tier_policies(Settings(tiers_file=path)))


def test_the_settings_fill_the_table() -> None:
    """Free and anonymous callers are paced and have a hard quota; paid ones have neither."""
    table = tier_policies(Settings())
    assert table["free"] == table["anonymous"] == TierPolicy(RatePolicy(60, 20), None, 10_000, hard=True)
    assert table["free"].metered == Allowance(RatePolicy(60, 20), 10_000, None)
    assert table["free"].unmetered == Allowance(RatePolicy(60, 20), None, None)
    assert (table["pro"].metered, table["pro"].soft_limit) == (NO_LIMIT, 1_000_000)
    assert (table["operator"].metered, table["operator"].soft_limit) == (NO_LIMIT, None)


def test_without_rate_limits_only_the_quota_is_left() -> None:
    """RATE_LIMIT_ENABLED=false."""
    assert tier_policies(Settings(rate_limit_enabled=False))["free"].metered == Allowance(None, 10_000, None)


def test_paid_limits_can_be_made_hard() -> None:
    """ENFORCE_PAID_LIMITS."""
    pro = tier_policies(Settings(enforce_paid_limits=True))["pro"]
    assert (pro.metered.monthly, pro.soft_limit) == (1_000_000, None)


def test_a_file_changes_single_cells(tmp_path: Path) -> None:
    """What it does not name stays."""
    table = policies(tmp_path, "[free]\nconcurrency = 4\n[pro]\nrequests_per_minute = 600\nburst = 50\nhard = true\n")
    assert table["free"] == TierPolicy(RatePolicy(60, 20), 4, 10_000, hard=True)
    assert table["pro"] == TierPolicy(RatePolicy(600, 50), None, 1_000_000, hard=True)
    assert table["scale"] == TierPolicy(None, None, 10_000_000, hard=False)


def test_zero_is_no_limit(tmp_path: Path) -> None:
    """In every column."""
    table = policies(tmp_path, "[free]\nrequests_per_minute = 0\nconcurrency = 0\nmonthly_requests = 0\n")
    assert table["free"].metered == NO_LIMIT
    table = policies(tmp_path, "[anonymous]\nrequests_per_minute = 0\nmonthly_requests = 0\n")
    assert table["anonymous"].metered == NO_LIMIT


@pytest.mark.parametrize(
    "text",
    [
        "[gold]\nburst = 1\n",
        "[free]\nspeed = 1\n",
        "[free]\nburst = -1\n",
        "[free]\nburst = 'x'\n",
        "not toml",
        "[free]\nhard=3",
    ],
)
def test_a_wrong_file_is_a_problem(tmp_path: Path, text: str) -> None:
    """An unknown tier, an unknown column, a wrong value, no TOML."""
    with pytest.raises(SettingsError, match=r"TIERS_FILE: tiers\.toml cannot be used"):
        policies(tmp_path, text)
