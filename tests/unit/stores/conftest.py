"""What the tests of one adapter's own properties need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from phalanx.contract.usage import UsageEvent


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


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
