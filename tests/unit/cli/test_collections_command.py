"""`phalanx collections` in its own process, over stores of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from phalanx.cli.root import app
from phalanx.errors import Conflict, InvalidRequest, NotFound, Unavailable

ANN, BOB = ("--organisation", "ann@example.org"), ("--organisation", "bob@example.org")


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("MODEL_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("LOG_LEVEL", "error")


def collections(*words: str, typed: str | None = None) -> Result:
    return CliRunner().invoke(app, ["collections", *words], input=typed)


def test_collections_are_made_found_and_deleted() -> None:
    """Whose a collection is need only be said where several have one of that name."""
    made = collections("create", "colours", "vectors", "--dimensions", "3", "--metric", "dot", *ANN)
    assert made.stdout == "The collection colours of ann@example.org takes vectors of 3 numbers, dot.\n"
    shown = json.loads(collections("show", "colours").stdout)
    assert (shown["organisation"], shown["points"]) == ("ann@example.org", 0)
    assert shown["contract"] == {"kind": "vectors", "dimensions": 3, "metric": "dot"}
    assert shown["place"].startswith("ann-example-org-438c4c7a__colours__")
    assert json.loads(collections("search", "colours", "--vector", "[1, 0, 0]", "--json").stdout) == []
    assert collections("create", "colours", "vectors", "--dimensions", "3", *BOB).exit_code == 0
    assert len(json.loads(collections("list", "--json").stdout)) == 2
    assert "ann@example.org" not in collections("list", *BOB).stdout
    several = collections("show", "colours")
    assert isinstance(several.exception, Conflict)
    assert "ann@example.org, bob@example.org" in str(several.exception)
    refused = collections("delete", "colours", *BOB, typed="n\n")
    assert refused.exit_code == 1
    assert collections("delete", "colours", *BOB, typed="y\n").exit_code == 0
    assert json.loads(collections("show", "colours").stdout)["organisation"] == "ann@example.org"


def test_what_cannot_be_done_is_said() -> None:
    assert isinstance(collections("create", "colours", "vectors", "--dimensions", "3").exception, InvalidRequest)
    assert isinstance(collections("create", "Colours", "vectors", "--dimensions", "3", *ANN).exception, InvalidRequest)
    assert collections("create", "colours", "vectors", "--dimensions", "5000", *ANN).exit_code == 2
    assert isinstance(collections("create", "colours", "vectors", *ANN).exception, InvalidRequest)
    assert isinstance(collections("show", "nothing").exception, NotFound)
    assert isinstance(collections("list", "--key", "fe_x").exception, InvalidRequest)
    assert isinstance(collections("list", "--url", "ftp://x").exception, InvalidRequest)
    assert collections("create", "colours", "vectors", "--dimensions", "2", *ANN).exit_code == 0
    for option in ("--vector", "--filter"):
        assert isinstance(collections("search", "colours", option, "[1,").exception, InvalidRequest)
    assert isinstance(collections("search", "colours").exception, InvalidRequest)
    assert isinstance(collections("search", "colours", "--id", "nobody").exception, NotFound)
    assert isinstance(collections("reembed", "colours").exception, Conflict)


def test_a_model_that_is_not_there_is_said_with_the_way_to_a_worker() -> None:
    missing = collections("create", "books", "texts", *ANN)
    assert isinstance(missing.exception, Unavailable)
    assert "--url" in str(missing.exception)
