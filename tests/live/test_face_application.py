"""The face application in examples/ does what it says, by the four services."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pictures import astronaut, quarters, saved
from servers.worker import WorkerProcess

APPLICATION = Path(__file__).parents[2] / "examples" / "face-application" / "app.py"


@pytest.fixture(scope="module")
def services(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Where the four services are, as the application's environment has it."""
    folder, models = tmp_path_factory.mktemp("application"), tmp_path_factory.mktemp("models")
    for name in ("blazeface-full-range", "blazeface-short-range", "dlib-resnet-v1"):
        (models / name).symlink_to(models_dir / name)
    environ = {
        "SERVICES": "faces,images,similarity", "ANONYMOUS_SCOPES": "faces,images,vectors", "RATE_LIMIT_ENABLED": "false",
    }  # fmt: skip
    worker = WorkerProcess(folder, models, environ)
    worker.wait_ready()
    yield {"PHALANX_URL": worker.url}
    assert worker.stop() == 0


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    mirrored = np.ascontiguousarray(astronaut()[:, ::-1])
    shown = {"eileen": astronaut(), "mirrored": mirrored, "party": np.hstack([mirrored, quarters(512, 512)])}
    for name, picture in {**shown, "nobody": np.zeros((240, 320, 3), np.uint8)}.items():
        (tmp_path / f"{name}.jpg").write_bytes(saved(picture, "JPEG", quality=92))
    return tmp_path


def run(services: dict[str, str], folder: Path, *words: str) -> tuple[int, Any, str]:
    """Run the application; return its status, what it answered, what it said."""
    environ = {**os.environ, **services, "PEOPLE": str(folder / "people")}
    done = subprocess.run(
        [sys.executable, str(APPLICATION), *words], env=environ, cwd=folder, capture_output=True, text=True, check=False
    )
    return done.returncode, json.loads(done.stdout or "null"), done.stderr


def test_people_are_enrolled_found_and_compared(services: dict[str, str], pictures: Path) -> None:
    assert run(services, pictures, "identify", "party.jpg")[1][0]["person"] is None
    status, made, said = run(services, pictures, "enrol", "eileen", "eileen.jpg")
    assert (status, made["person"]) == (0, "eileen"), said
    thumbnail = cv2.imread(str(pictures / "people" / "eileen.jpg"))
    assert thumbnail is not None
    assert thumbnail.shape == (160, 160, 3)
    status, found, said = run(services, pictures, "identify", "party.jpg")
    assert [face["person"] for face in found] == ["eileen"], said
    assert 0 < found[0]["score"] < 0.6
    status, told, said = run(services, pictures, "compare", "eileen.jpg", "mirrored.jpg")
    assert (status, told["same"]) == (0, True), said


def test_what_cannot_be_is_said(services: dict[str, str], pictures: Path) -> None:
    (pictures / "broken.jpg").write_bytes(b"no picture")
    for words, told in (
        (("enrol", "nobody", "nobody.jpg"), "no face is on the picture"),
        (("enrol", "../eileen", "eileen.jpg"), "letters, digits"),
        (("identify", "broken.jpg"), "JPEG"),
        (("identify", "absent.jpg"), "absent.jpg"),
    ):
        status, answer, said = run(services, pictures, *words)
        assert (status, answer, told in said) == (1, None, True), (words, said)
    assert not list(pictures.glob("people/*"))
    status, _, said = run(
        {**services, "SIMILARITY_URL": "http://127.0.0.1:1"}, pictures, "compare", *["eileen.jpg"] * 2
    )
    assert (status, "similarity at http://127.0.0.1:1 does not answer" in said) == (1, True)


def test_its_page_does_the_same(services: dict[str, str], pictures: Path) -> None:
    environ = {**os.environ, **services, "PEOPLE": str(pictures / "people")}
    with subprocess.Popen(
        [sys.executable, str(APPLICATION), "serve", "0"], env=environ, stderr=subprocess.PIPE, text=True
    ) as page:
        assert page.stderr is not None
        url = page.stderr.readline().strip()
        try:
            picture = (pictures / "eileen.jpg").read_bytes()
            for path, wanted in (("enrol?person=eileen", "eileen"), ("identify", "eileen")):
                with urllib.request.urlopen(url + path, data=picture, timeout=60) as answer:
                    found = json.load(answer)
                assert (found[0] if path == "identify" else found)["person"] == wanted
            with urllib.request.urlopen(url, timeout=60) as answer:
                assert b'<img src="/thumbnails/eileen.jpg"' in answer.read()
            with urllib.request.urlopen(f"{url}thumbnails/eileen.jpg", timeout=60) as answer:
                assert answer.read()[:2] == b"\xff\xd8"
        finally:
            page.kill()
