"""What `phalanx models quantize` refuses; a whole run is in `golden/test_minilm_int8.py`."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from phalanx.cli.root import app
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
