"""Fixtures for all tests: the real model, and a worker in this process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def models_dir() -> Path:
    """The store that `make test` fills; its absence is an error, not a skip."""
    folder = Path(os.environ.get("PHALANX_TEST_MODELS", REPOSITORY / ".build" / "models"))
    if not (folder / "all-MiniLM-L6-v2" / "active.json").is_file():
        pytest.fail(f"the model is not in {folder}; run: make model")
    return folder
