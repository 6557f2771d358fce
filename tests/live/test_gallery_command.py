"""`phalanx faces enrol` and `identify` with the real models and Qdrant Edge: in one process, and by a running worker."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pictures import astronaut, saved
from servers.worker import PHALANX, WorkerProcess

REPOSITORY = Path(__file__).parents[2]
PHOTOS = Path(os.environ.get("PHALANX_REFERENCE", REPOSITORY.parent / "shared" / "reference")) / "faces"
LABELS = PHOTOS / "labels.json"

needs_photos = pytest.mark.skipif(not LABELS.is_file(), reason="no reference photos; PHALANX_REFERENCE names them")


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Folders of persons, one of whom is on no picture."""
    for person, picture in (("eileen", astronaut()), ("nobody", np.zeros((240, 320, 3), np.uint8))):
        (tmp_path / "people" / person).mkdir(parents=True)
        (tmp_path / "people" / person / "1.jpg").write_bytes(saved(picture, "JPEG", quality=92))
    mirrored = np.ascontiguousarray(astronaut()[:, ::-1])
    (tmp_path / "party.jpg").write_bytes(saved(mirrored, "JPEG", quality=85))
    return tmp_path


def faces(environ: dict[str, str], folder: Path, *words: str) -> tuple[int, list[dict[str, Any]], str]:
    """Run the command; return its exit status, the lines that it printed and what it said."""
    done = subprocess.run([PHALANX, "faces", *words], env=environ, capture_output=True, check=False, cwd=folder)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr.decode()


def environ(models_dir: Path, folder: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {**kept, "DATA_DIR": str(folder / "data"), "MODEL_DIR": str(models_dir)}


def test_a_running_worker_is_asked(live: WorkerProcess, people: Path) -> None:
    (people / "key").write_text(live.key(scopes=("faces", "vectors")))
    asked = ("--url", live.url, "--key", "@key")
    status, lines, said = faces(live.environ, people, "enrol", "staff", "people", "--create", *asked)
    assert status == 1, said
    assert [line.get("person_id", line.get("error", {}).get("code")) for line in lines] == ["eileen", "no_face"]
    status, lines, said = faces(live.environ, people, "identify", "staff", "party.jpg", *asked)
    assert status == 0, said
    assert [face["person_id"] for face in lines[0]["faces"]] == ["eileen"]
    # Only one process may open what is on disk: another is told whom to ask.
    status, lines, said = faces(live.environ, people, "identify", "staff", "party.jpg")
    assert (status, lines) == (1, [])
    assert "--url http" in said


@needs_photos
def test_the_photos_of_known_people_in_one_process(models_dir: Path, tmp_path: Path) -> None:
    """One photo of each is enrolled by its folder; each face of all photos is told."""
    labels: dict[str, list[str]] = json.loads(LABELS.read_text())["faces"]
    for name, people in sorted(labels.items(), reverse=True):
        folder = tmp_path / "people" / people[0]
        if len(people) == 1 and not folder.exists():
            folder.mkdir(parents=True)
            (folder / name).write_bytes((PHOTOS / name).read_bytes())
    surroundings = environ(models_dir, tmp_path)
    for created in (True, False):
        status, lines, said = faces(surroundings, tmp_path, "enrol", "known", "people", "--create")
        assert status == 0, said
        assert {line["created"] for line in lines} == {created}
    status, lines, said = faces(surroundings, tmp_path, "identify", "known", str(PHOTOS))
    assert status == 0, said
    also_visible = json.loads(LABELS.read_text())["also_visible"]
    for line in lines:
        name = Path(line["file"]).name
        found = [face["person_id"] for face in line["faces"]]
        assert found in ([labels[name], [*labels[name], None]] if name in also_visible else [labels[name]]), name
        assert line["search"]["compared"] == len({person for people in labels.values() for person in people})
