"""`phalanx models quantize`: what it refuses, and a whole run over the real model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from phalanx.cli import app
from phalanx.errors import InvalidRequest, Unavailable


def run(*words: str) -> str:
    done = CliRunner().invoke(app, ["models", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_it_asks_what_to_quantise_to(tmp_path: Path) -> None:
    """There is one answer so far, and it is not guessed."""
    with pytest.raises(InvalidRequest, match="--int8"):
        run("--model-dir", str(tmp_path), "quantize", "all-MiniLM-L6-v2")


def test_a_model_that_is_not_here_is_named_with_the_command(tmp_path: Path) -> None:
    """Pull it first."""
    with pytest.raises(Unavailable, match="phalanx models pull all-MiniLM-L6-v2"):
        run("--model-dir", str(tmp_path), "quantize", "all-MiniLM-L6-v2", "--int8")


def test_the_int8_form_serves_and_can_be_taken_back(models_dir: Path, tmp_path: Path) -> None:
    """Quantised twice it is one version; a rollback brings float32 back."""
    shutil.copytree(models_dir / "all-MiniLM-L6-v2", tmp_path / "all-MiniLM-L6-v2")
    store = ("--model-dir", str(tmp_path))

    def active() -> list[str]:
        models = {model["name"]: model for model in json.loads(run(*store, "list", "--json"))}
        return list(models["all-MiniLM-L6-v2"]["active"])

    (plain,) = active()
    for _ in range(2):
        assert "-int8 is active" in run(*store, "quantize", "all-MiniLM-L6-v2", "--int8")
        assert active()[0].endswith("-int8")
    run(*store, "verify")
    run(*store, "activate", "all-MiniLM-L6-v2", plain)
    assert active() == [plain]
