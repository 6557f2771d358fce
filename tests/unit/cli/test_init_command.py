"""`phalanx init`: models, database and a first key, with what there is."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from phalanx.app.models import models_to_pull
from phalanx.cli import setup as command
from phalanx.cli.root import app
from phalanx.errors import UpstreamFailed
from phalanx.settings import Settings, load

FACES = ["blazeface-full-range", "blazeface-short-range", "dlib-resnet-v1"]


def settings(**environ: str) -> Settings:
    return load(environ).settings


@pytest.mark.parametrize(
    ("services", "names"),
    [
        ("", ["all-MiniLM-L6-v2", *FACES]),
        ("text", ["all-MiniLM-L6-v2"]),
        ("face-detection", FACES[:2]),
        ("faces", FACES),
        ("images", FACES[:2]),
        ("vectors", []),
    ],
)
def test_what_the_services_need_is_pulled(services: str, names: list[str]) -> None:
    assert models_to_pull(settings(SERVICES=services)) == names


def test_a_model_used_as_it_lies_is_not_pulled(tmp_path: Path) -> None:
    assert models_to_pull(settings(SERVICES="text", MODEL_PATH=str(tmp_path))) == []


@pytest.fixture
def pulls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> set[str]:
    """The models that cannot be had; the others are pulled at once."""
    absent: set[str] = set()

    def pull(_: Settings, name: str) -> None:
        if name in absent:
            raise UpstreamFailed("no index answers")

    monkeypatch.setattr(command, "pull_model", pull)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    return absent


def test_the_first_run_shows_a_key_and_the_second_none(pulls: set[str]) -> None:
    first, second = CliRunner().invoke(app, ["init"]), CliRunner().invoke(app, ["init"])
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert "curl http://127.0.0.1:8000/v1/embed -H 'Authorization: Bearer fe_" in first.output
    assert "fe_" not in second.output
    assert "Models, database and keys are in place." in second.output


def test_without_a_face_model_the_rest_is_made(pulls: set[str]) -> None:
    pulls.add("dlib-resnet-v1")
    outcome = CliRunner().invoke(app, ["init"])
    assert outcome.exit_code == 0
    assert "Later: phalanx models pull dlib-resnet-v1" in outcome.output
    assert "Bearer fe_" in outcome.output


def test_without_the_text_model_nothing_is_made(pulls: set[str], tmp_path: Path) -> None:
    pulls.add("all-MiniLM-L6-v2")
    outcome = CliRunner().invoke(app, ["init"])
    assert outcome.exit_code != 0
    assert not (tmp_path / "data" / "phalanx.db").exists()
