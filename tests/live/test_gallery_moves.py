"""`phalanx collections reembed NAME --images FOLDER`, asked of a running worker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from face_graphs import write_graph
from phalanx.cli.root import app
from pictures import astronaut, quarters, saved
from servers.worker import WorkerProcess


@pytest.fixture
def worker(models_dir: Path, tmp_path: Path) -> Iterator[WorkerProcess]:
    """A worker of faces and collections, with dlib's network and another."""
    models = tmp_path / "models"
    models.mkdir()
    for name in ("blazeface-full-range", "blazeface-short-range", "dlib-resnet-v1"):
        (models / name).symlink_to(models_dir / name)
    graph = write_graph(tmp_path / "arcface.onnx")
    added = ["models", "--model-dir", str(models), "add", "other", "--file", str(graph), "--licence", "MIT"]
    assert CliRunner().invoke(app, added).exit_code == 0
    started = WorkerProcess(tmp_path, models, {"SERVICES": "face-detection,face-embedding,collections"})
    started.wait_ready()
    yield started
    assert started.stop() == 0


def phalanx(worker: WorkerProcess, *words: str) -> tuple[int, str, str]:
    """Run a command in this process; return its status, what it printed, and what it said or failed with."""
    done = CliRunner().invoke(app, [*words, "--url", worker.url, "--key", f"@{worker.folder / 'key'}"])
    return done.exit_code, done.stdout, f"{done.stderr}{done.exception or ''}"


def test_a_gallery_moves_by_the_folder_of_its_images(worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the files are called by now; what is missing is said, and the gallery answers until it is there."""
    people, folder = worker.folder / "people", worker.folder
    monkeypatch.chdir(folder)
    (folder / "key").write_text(worker.key(scopes=("faces", "vectors")))
    mirrored = np.ascontiguousarray(astronaut()[:, ::-1])
    for person, picture in (("eileen", astronaut()), ("mirrored", mirrored)):
        (people / person).mkdir(parents=True)
        (people / person / "1.jpg").write_bytes(saved(picture, "JPEG", quality=92))
    assert phalanx(worker, "faces", "enrol", "staff", "people", "--create")[0] == 0

    move = ("collections", "reembed", "staff", "--model", "other")
    status, _, said = phalanx(worker, *move)
    assert (status, "--images FOLDER" in said) == (1, True), said
    (folder / "renamed").mkdir()
    (folder / "renamed" / "x.jpeg").write_bytes((people / "eileen" / "1.jpg").read_bytes())
    (folder / "renamed" / "y.png").write_bytes(saved(quarters(320, 240), "PNG"))
    (folder / "renamed" / "z.jpg").write_bytes(b"no picture")
    status, _, said = phalanx(worker, *move, "--images", "renamed")
    assert (status, "1 of 2 faces have arrived" in said) == (1, True), said
    status, out, said = phalanx(worker, "faces", "identify", "staff", "people", "--json")
    assert status == 0, said
    found = [json.loads(line) for line in out.splitlines()]
    assert [face["person_id"] for line in found for face in line["faces"]] == ["eileen", "mirrored"]
    assert {line["model"] for line in found} == {"dlib-resnet-v1"}

    status, out, said = phalanx(worker, *move, "--images", "people")
    assert (status, "The collection staff has 2 faces of other" in out) == (0, True), said
    status, out, said = phalanx(worker, "faces", "identify", "staff", "people/eileen", "--json")
    assert json.loads(out)["model"] == "other", said

    # And back, without the one whose image is lost.
    (people / "mirrored" / "1.jpg").unlink()
    (people / "mirrored").rmdir()
    back = ("collections", "reembed", "staff", "--model", "dlib-resnet-v1", "--images", "people")
    assert phalanx(worker, *back)[0] == 1
    status, out, said = phalanx(worker, *back, "--leave-out-missing")
    assert (status, "has 1 faces of dlib-resnet-v1" in out, "1 faces" in said) == (0, True, True), said
