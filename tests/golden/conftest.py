"""The real model, from the store that `make model` fills."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

NAME = "all-MiniLM-L6-v2"


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of the active version; a missing model fails the test, since without it nothing is proven."""
    root = Path(os.environ.get("PHALANX_TEST_MODELS") or Path(__file__).parents[2] / ".build" / "models")
    pointer = root / NAME / "active.json"
    if not pointer.is_file():
        pytest.fail(f"{NAME} is not in {root}; run: make model")
    versions = json.loads(pointer.read_text())["versions"]
    return root / NAME / str(versions[0]["version"])
