"""Limits as answers say them."""

from __future__ import annotations

import time
from typing import Any

import pytest

from phalanx.edges.limit_headers import limit_headers
from phalanx.ports import Allowance, Grant, QuotaDecision, RateDecision, RatePolicy

RATE = RateDecision(True, 20, 19, 0.4, 0.0)
NOON = 1_793_534_400.0  # 2026-11-01T12:00:00Z
UNTIL_MONTH_END = 30 * 86_400 - 12 * 3600


def said(**facts: Any) -> dict[str, str]:
    allowance = Allowance(RatePolicy(60, 20), 10_000, 4)
    grant = Grant("org", "2026-11", "lease", allowance, **facts)
    return {name.decode(): value.decode() for name, value in limit_headers(grant)}


@pytest.fixture(autouse=True)
def _noon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: NOON)


def test_every_window_is_said() -> None:
    """The rate and the month, and the rate in the older headers."""
    assert said(rate=RATE, quota=QuotaDecision(True, 7, 10_000)) == {
        "ratelimit-policy": '"requests";q=60;w=60, "month";q=10000;w=2592000',
        "ratelimit": f'"requests";r=19;t=1, "month";r=9993;t={UNTIL_MONTH_END}',
        "x-ratelimit-limit": "20",
        "x-ratelimit-remaining": "19",
        "x-ratelimit-reset": "1",
    }


def test_the_month_alone_is_said_in_the_older_headers_too() -> None:
    """A tier may have a quota and no rate."""
    assert said(quota=QuotaDecision(False, 10_000, 10_000)) == {
        "ratelimit-policy": '"month";q=10000;w=2592000',
        "ratelimit": f'"month";r=0;t={UNTIL_MONTH_END}',
        "x-ratelimit-limit": "10000",
        "x-ratelimit-remaining": "0",
        "x-ratelimit-reset": str(UNTIL_MONTH_END),
    }


def test_a_refused_caller_is_told_when_the_next_call_passes() -> None:
    """Not when the whole allowance is back; Retry-After says the same."""
    refused = said(rate=RateDecision(False, 20, 0, 20.0, 0.6), refused="rate")
    assert (refused["ratelimit"], refused["x-ratelimit-reset"]) == ('"requests";r=0;t=1', "20")


def test_more_than_the_quota_leaves_nothing() -> None:
    """What is left is never negative, as after a limit was lowered."""
    assert said(quota=QuotaDecision(False, 12_000, 10_000))["x-ratelimit-remaining"] == "0"


def test_a_limiter_without_its_store_says_so() -> None:
    """Each worker goes on with its share."""
    assert said(rate=RATE, degraded=True)["x-ratelimit-degraded"] == "true"
    assert "x-ratelimit-degraded" not in said(rate=RATE)


def test_a_caller_without_windows_is_told_nothing() -> None:
    """As where calls open at once are the only limit."""
    assert said() == {}
