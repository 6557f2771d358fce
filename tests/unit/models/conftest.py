"""Fixtures of the model store's tests: a hub on the loopback, and what is heard of a pull."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hub import Hub, Remembering
from phalanx.models.sources import Access
from phalanx.models.sources.web import Downloader


@pytest.fixture
def hub() -> Iterator[Hub]:
    serving = Hub()
    yield serving
    serving.close()


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def access(hub: Hub, pauses: list[float]) -> Access:
    """Reaches the local hub and, instead of sleeping between attempts, remembers for how long."""
    return Access(hub_endpoint=hub.endpoint, downloader=Downloader(attempts=3, timeout_s=5, sleep=pauses.append))


@pytest.fixture
def heard() -> Remembering:
    return Remembering()
