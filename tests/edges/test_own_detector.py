"""A YuNet of the operator's own beside BlazeFace: named by calls, kept apart by galleries, refused when it is none."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from detector_graphs import write_random, write_seeing
from face_graphs import write_graph
from phalanx.cli.root import app
from phalanx.engines.face.detector_golden import portrait
from pictures import astronaut, saved

SIDE = 640


def add(models: Path, name: str, file: Path, *more: str) -> Any:
    words = ["models", "--model-dir", str(models), "add", name, "--file", str(file), "--licence", "MIT", *more]
    return CliRunner().invoke(app, words)


def shown_face() -> tuple[list[float], list[list[float]]]:
    """The portrait's face in a square of 640, by the golden numbers."""
    folder = Path(__file__).parents[2] / "src" / "phalanx" / "engines" / "face" / "goldens"
    look = json.loads((folder / "portrait.json").read_text())["looks"][0]
    scale = SIDE / len(portrait())
    points = np.array(look["keypoints"]) * scale
    corner = np.array([60.0, 0.0])
    five = [*points[:3], points[3] - corner, points[3] + corner]
    return [value * scale for value in look["box"]], [point.tolist() for point in five]


@pytest.fixture(scope="module")
def own(start_worker: Callable[..., Any], models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A worker with BlazeFace, dlib's network and a detector that sees the portrait's face in every picture."""
    folder = tmp_path_factory.mktemp("yunet")
    models = folder / "models"
    models.mkdir()
    for name in ("blazeface-full-range", "blazeface-short-range", "dlib-resnet-v1"):
        (models / name).symlink_to(models_dir / name)
    box, points = shown_face()
    done = add(models, "My-YuNet", write_seeing(folder / "yunet.onnx", box=box, points=points), "--kind", "detector")
    assert done.exit_code == 0, done.output
    assert "My-YuNet: YuNet, 640 x 640 pixels" in done.stdout
    assert add(models, "untrained", write_random(folder / "random.onnx"), "--kind", "detector").exit_code == 0
    return start_worker(MODEL_DIR=str(models), RATE_LIMIT_BURST="1000000")


def text(image: np.ndarray) -> str:
    return base64.b64encode(saved(image, "JPEG", quality=95)).decode()


PORTRAIT = text(portrait())


def test_the_option_names_it(own: Any) -> None:
    """It sees all five landmarks; they are as the network has them, in pixels of the picture."""
    body = own.post("/v1/faces/detect", {"image": PORTRAIT, "detector": "My-YuNet"})
    assert body.status == 200, body.body
    assert (body.json["model"], body.headers["x-model"]) == ("My-YuNet", "My-YuNet")
    assert body.json["landmarks_estimated"] == []
    (face,) = body.json["faces"]
    _, points = shown_face()
    names = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
    seen = np.array([face["landmarks"][name] for name in names])
    assert np.abs(seen - np.array(points) * len(portrait()) / SIDE).max() < 0.5
    assert face["landmarks"]["left_eye"][0] < face["landmarks"]["right_eye"][0]
    assert face["landmarks"]["left_mouth"][0] < face["landmarks"]["right_mouth"][0]
    # Another answer than that of the default one, for the same picture, from no common cache.
    usual = own.post("/v1/faces/detect", {"image": PORTRAIT}).json
    assert (usual["model"], usual["landmarks_estimated"]) == ("blazeface-full-range", ["left_mouth", "right_mouth"])
    assert own.post("/v1/faces/detect", {"image": PORTRAIT, "detector": "My-YuNet"}).json["cached"]


def test_it_is_named_where_models_are(own: Any) -> None:
    models = {one["id"]: one for one in own.get("/v1/models").json["data"]}
    assert models["My-YuNet"]["task"] == "face-detection"
    assert models["My-YuNet"]["ready"]


def test_faces_are_embedded_and_compared_by_it(own: Any) -> None:
    first = own.post("/v1/faces/embed", {"image": PORTRAIT, "detector": "My-YuNet"})
    second = own.post("/v1/faces/embed", {"image": PORTRAIT})
    assert (first.status, second.status) == (200, 200), first.body
    assert first.json["landmarks_estimated"] == []
    assert second.json["landmarks_estimated"] == ["left_mouth", "right_mouth"]
    aligned = own.post("/v1/faces/embed", {"image": PORTRAIT, "aligned": True})
    assert (aligned.status, "landmarks_estimated" in aligned.json) == (200, False)
    assert np.linalg.norm(np.subtract(first.json["embedding"], second.json["embedding"])) < 0.3
    pair = own.post("/v1/faces/compare", {"images": [PORTRAIT, PORTRAIT], "detector": "My-YuNet"})
    assert (pair.status, pair.json["same"]) == (200, True), pair.body


@pytest.mark.parametrize("wanted", ["best", "My-YuNet2", "dlib-resnet-v1", "..", "é"])
def test_an_unknown_detector_is_refused_with_those_there_are(own: Any, wanted: str) -> None:
    answer = own.post("/v1/faces/detect", {"image": PORTRAIT, "detector": wanted})
    assert (answer.status, answer.json["code"]) == (400, "invalid_request")
    assert "full, short, auto, tiled, My-YuNet, blazeface-full-range" in answer.json["detail"]


def test_galleries_are_pinned_to_their_detector(own: Any) -> None:
    """One made with it takes no other, and the usual one does not take it."""
    made = own.request("PUT", "/v1/collections/by-yunet", json_body={"kind": "faces", "detector": "My-YuNet"})
    assert (made.status, made.json["contract"]["detector"]) == (200, "My-YuNet"), made.body
    assert own.request("PUT", "/v1/collections/usual", json_body={"kind": "faces"}).status == 200
    for name, detector, status in (
        ("by-yunet", "auto", 200), ("by-yunet", "My-YuNet", 200), ("by-yunet", "full", 400), ("by-yunet", "tiled", 400),
        ("usual", "My-YuNet", 400), ("usual", "full", 200),
    ):  # fmt: skip
        body = {"person_id": "eileen", "image": PORTRAIT, "detector": detector}
        answer = own.post(f"/v1/collections/{name}/faces", body)
        assert answer.status == status, (name, detector, answer.body)
        if status == 400:
            assert "detector is" in answer.json["detail"]
    found = own.post("/v1/collections/by-yunet/identify", {"image": PORTRAIT})
    assert (found.json["faces"][0]["person_id"], found.json["landmarks_estimated"]) == ("eileen", [])
    other = own.request("PUT", "/v1/collections/words", json_body={"kind": "texts", "detector": "My-YuNet"})
    assert other.status == 400


@pytest.mark.parametrize("shape", [(512, 512), (200, 640), (1, 1), (900, 300)])
def test_pictures_of_every_shape(own: Any, shape: tuple[int, int]) -> None:
    """The way back from the square to the picture holds for each."""
    image = np.asarray(cv2.resize(astronaut(), shape[::-1]), dtype=np.uint8)
    answer = own.post("/v1/faces/detect", {"image": text(image), "detector": "My-YuNet"})
    assert answer.status == 200, answer.body
    height, width = shape
    box, _ = shown_face()
    scale = max(shape) / SIDE
    left, top = (SIDE * scale - width) / 2, (SIDE * scale - height) / 2
    (face,) = answer.json["faces"]
    expected = (box[0] * scale - left, box[1] * scale - top, box[2] * scale, box[3] * scale)
    # What is one pixel wide is stretched to whole pixels of the square.
    assert [face["bbox"][n] for n in ("x", "y", "width", "height")] == pytest.approx(expected, abs=0.02 * max(shape))


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (lambda path: write_graph(path), "YuNet takes [1, 3, side, side]"),
        (lambda path: write_random(path, side=48), "32 divides"),
        (lambda path: path.write_bytes(b"no onnx") and path, "cannot be read as ONNX"),
    ],
)
def test_what_is_no_yunet_is_refused_on_adding(tmp_path: Path, write: Callable[[Path], Path], told: str) -> None:
    done = add(tmp_path / "models", "mine", write(tmp_path / "mine.onnx"), "--kind", "detector")
    assert done.exit_code != 0
    assert told in str(done.exception)
    assert not (tmp_path / "models").exists()


def test_one_that_was_not_trained_is_refused_on_loading(own: Any) -> None:
    """The worker goes on with what else there is, and says why."""
    answer = own.post("/v1/faces/detect", {"image": PORTRAIT, "detector": "untrained"})
    assert (answer.status, "that was trained" in answer.json["detail"]) == (503, True)
    assert own.post("/v1/faces/detect", {"image": PORTRAIT}).status == 200
