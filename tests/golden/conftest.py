"""The real models, from the store that `make model` fills, and the reference photos where they are."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def active_folder(name: str) -> Path:
    """The folder of a model's active version; a missing one fails the test, since without it nothing is proven."""
    root = Path(os.environ.get("PHALANX_TEST_MODELS") or REPOSITORY / ".build" / "models")
    pointer = root / name / "active.json"
    if not pointer.is_file():
        pytest.fail(f"{name} is not in {root}; run: make model")
    versions = json.loads(pointer.read_text())["versions"]
    return root / name / str(versions[0]["version"])


@pytest.fixture(scope="session")
def minilm() -> Path:
    return active_folder("all-MiniLM-L6-v2")


@pytest.fixture(scope="session")
def dlib_resnet() -> Path:
    return active_folder("dlib-resnet-v1")


@pytest.fixture(scope="session")
def reference_faces() -> Path:
    """Photos that are not in the repository: in `faces` of PHALANX_REFERENCE, or of `shared/reference` beside it."""
    root = Path(os.environ.get("PHALANX_REFERENCE") or REPOSITORY.parent / "shared" / "reference")
    if not (root / "faces" / "labels.json").is_file():
        pytest.skip("the reference photos are not here; PHALANX_REFERENCE names their folder")
    return root / "faces"
