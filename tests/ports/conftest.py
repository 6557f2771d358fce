"""What every conformance suite needs: a clock set by hand, a migrated database, events and keys to store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phalanx.contract.keys import KeyRecord
from phalanx.contract.usage import UsageEvent
from phalanx.stores.sql.database import migrate


class HandClock:
    """A clock that stands still until a test moves it. Seconds."""

    def __init__(self) -> None:
        self.epoch = 1_790_000_000.0
        self.uptime = 5_000.0

    def now(self) -> float:
        return self.epoch

    def monotonic(self) -> float:
        return self.uptime

    def advance(self, seconds: float) -> None:
        self.epoch += seconds
        self.uptime += seconds


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """A database of its own, with this version's schema."""
    url = f"sqlite:///{tmp_path / 'phalanx.db'}"
    migrate(url)
    return url


@pytest.fixture
def make_key() -> Callable[..., KeyRecord]:
    """Make the record of key number `n`, with any field set otherwise."""

    def make(n: int = 1, **changes: Any) -> KeyRecord:
        fields = {
            "id": f"key-{n}", "digest": f"{n:064x}", "hint": "fe_abcdef", "email": "ann@example.org",
            "organisation": "ann@example.org", "name": f"number {n}", "tier": "free", "scopes": ("text", "usage"),
            "created_at": 1_000.25 + n, "expires_at": None, "revoked_at": None,
        }  # fmt: skip
        return KeyRecord(**{**fields, **changes})

    return make


@pytest.fixture
def make_event() -> Callable[..., UsageEvent]:
    """Make usage event number `n`, with any field set otherwise."""

    def make(n: int = 1, **changes: Any) -> UsageEvent:
        fields = {
            "id": f"019a6f0e-5c1b-7000-8000-{n:012x}", "at": 1_000.0 + n, "organisation": "ann@example.org",
            "key_id": "key-1", "operation": "text.embed", "unit": "tokens", "units": 1, "tokens": 1, "cached": 0,
            "model": "all-MiniLM-L6-v2", "status": "ok", "latency_ms": 1.25,
        }  # fmt: skip
        return UsageEvent(**{**fields, **changes})

    return make
