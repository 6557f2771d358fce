"""`phalanx faces` with the real models: in its own process, and against a running worker; the photos of known people."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from phalanx.cli.root import app
from pictures import astronaut, saved
from servers.worker import PHALANX, WorkerProcess

REPOSITORY = Path(__file__).parents[2]
PHOTOS = Path(os.environ.get("PHALANX_REFERENCE", REPOSITORY.parent / "shared" / "reference")) / "faces"
LABELS = PHOTOS / "labels.json"

needs_photos = pytest.mark.skipif(not LABELS.is_file(), reason="no reference photos; PHALANX_REFERENCE names them")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with an astronaut, a picture without a face, and a file that is no picture."""
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    (folder / "astronaut.png").write_bytes(saved(astronaut(), "PNG"))
    (folder / "deep" / "none.jpg").write_bytes(saved(np.zeros((240, 320, 3), np.uint8), "JPEG"))
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff rubbish")
    return folder


def faces(
    models_dir: Path, folder: Path, *words: str, given: bytes = b"", within: tuple[str, ...] = ("faces",)
) -> tuple[int, list[dict[str, Any]], str]:
    """Run the command; return its exit status, the lines that it printed and what it said."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    environ = {**kept, "DATA_DIR": str(folder / "data"), "MODEL_DIR": str(models_dir)}
    done = subprocess.run(
        [PHALANX, *within, *words], env=environ, capture_output=True, check=False, input=given, cwd=folder
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr.decode()


def labels() -> dict[str, list[str]]:
    found: dict[str, list[str]] = json.loads(LABELS.read_text())["faces"]
    return found


def also_visible() -> dict[str, str]:
    """Files with a face that the labels allow to be found or missed."""
    found: dict[str, str] = json.loads(LABELS.read_text())["also_visible"]
    return found


def test_a_folder_is_looked_at_and_drawn(models_dir: Path, tmp_path: Path, pictures: Path) -> None:
    status, lines, said = faces(models_dir, tmp_path, "detect", "pictures", "--draw", "drawn")
    assert status == 1, said
    found, broken, none = lines
    assert (found["file"], len(found["faces"]), found["width"]) == ("pictures/astronaut.png", 1, 512)
    assert broken["error"]["code"] == "unreadable_input"
    assert none["faces"] == []
    drawn = cv2.imread(str(tmp_path / "drawn" / "astronaut.png"))
    assert drawn is not None
    assert drawn.shape == (512, 512, 3)
    # The box is where the face is, and what is far from it is untouched.
    x, y = (round(found["faces"][0]["bbox"][name]) for name in ("x", "y"))
    assert drawn[y + 50, x].tolist() == [96, 224, 64]
    assert np.array_equal(drawn[300:, :, ::-1], astronaut()[300:])
    assert sorted(path.name for path in (tmp_path / "drawn").rglob("*.*")) == ["astronaut.png", "none.jpg"]


def test_a_running_worker_is_asked(live: WorkerProcess, models_dir: Path, tmp_path: Path, pictures: Path) -> None:
    (tmp_path / "key").write_text(live.key(scopes=("faces",)) + "\n")
    asked = ("--url", live.url, "--key", "@key")
    _, here, _ = faces(models_dir, tmp_path, "embed", "pictures")
    status, there, said = faces(models_dir, tmp_path, "embed", "pictures", *asked)
    assert status == 1, said
    assert [line.get("error") for line in there] == [line.get("error") for line in here]
    mine, theirs = (line[0]["faces"][0]["embedding"] for line in (here, there))
    assert np.allclose(mine, theirs, atol=1e-3)
    status, lines, said = faces(models_dir, tmp_path, "detect", "pictures", "--url", live.url)
    assert (status, lines) == (1, []), said
    assert "asks for an API key" in said
    status, _, said = faces(models_dir, tmp_path, "detect", "pictures", "--url", "http://127.0.0.1:1")
    assert status == 1
    assert "no worker answers" in said


@needs_photos
def test_the_photos_of_known_people(models_dir: Path, tmp_path: Path) -> None:
    """Every face is found, and each that is compared is on its side of the threshold."""
    status, lines, said = faces(models_dir, tmp_path, "detect", str(PHOTOS))
    assert status == 0, said
    found = {Path(line["file"]).name: len(line["faces"]) for line in lines}
    assert found.keys() == labels().keys()
    for name, people in labels().items():
        assert found[name] - len(people) in ((0, 1) if name in also_visible() else (0,)), name
    status, lines, said = faces(models_dir, tmp_path, "compare", str(PHOTOS / "obama.jpg"), str(PHOTOS))
    assert status == 0, said
    alone = {name: people[0] for name, people in labels().items() if len(people) == 1}
    verdicts = {Path(line["file"]).name: line["same"] for line in lines}
    for name, person in alone.items():
        assert verdicts[name] == (person == "person-3"), name


def test_a_row_about_faces_is_called(models_dir: Path, tmp_path: Path, pictures: Path) -> None:
    """Without a server; the models are loaded."""
    request = {"image": base64.b64encode((pictures / "astronaut.png").read_bytes()).decode()}
    (tmp_path / "request.json").write_text(json.dumps(request))
    status, lines, said = faces(models_dir, tmp_path, "call", "faces.detect", "@request.json", within=())
    assert status == 0, said
    assert len(lines[0]["faces"]) == 1


@pytest.mark.parametrize("command", ["detect", "embed", "compare", "enrol", "identify"])
def test_help_has_examples(command: str) -> None:
    done = CliRunner().invoke(app, ["faces", command, "--help"])
    assert done.exit_code == 0, done.output
    assert f"phalanx faces {command} " in done.stdout
    assert "Examples:" in done.stdout
