"""Fixtures for all tests: the real model, and a worker in this process."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from phalanx.contract.usage import UsageEvent
from servers import PostgresServer, RedisServer

REPOSITORY = Path(__file__).parent.parent
TEXT_MODEL = "all-MiniLM-L6-v2"

# Several processes of tests leave Ctrl-C to the one that started them, and what tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def fresh_logs() -> Iterator[None]:
    """What a test sets up of the logs ends with it, before its streams are closed."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def anyio_backend() -> str:
    """Async tests run on asyncio alone."""
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


@pytest.fixture(scope="session")
def models_dir() -> Path:
    """The store that `make test` fills; its absence is an error, not a skip."""
    folder = Path(os.environ.get("PHALANX_TEST_MODELS", REPOSITORY / ".build" / "models"))
    if not (folder / TEXT_MODEL / "active.json").is_file():
        pytest.fail(f"the model is not in {folder}; run: make model")
    return folder


@pytest.fixture(scope="session")
def text_models(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the text model alone: loading the others is half of a worker's start, and most tests ask for texts."""
    folder = tmp_path_factory.mktemp("models")
    (folder / TEXT_MODEL).symlink_to(models_dir / TEXT_MODEL)
    return folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL for the session; who stops it starts it again."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A Redis for the session; who stops it starts it again, and who uses it flushes it first."""
    server = RedisServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()
