"""`align` over HTTP: the detector finds the face, the chip comes back as the embedder would have cut it."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pictures import astronaut

PATH = "/v1/images/process"


@pytest.fixture(scope="module", autouse=True)
def face_models(models_dir: Path) -> None:
    """The models that `make model` pulls."""
    for name in ("blazeface-full-range", "blazeface-short-range", "dlib-resnet-v1"):
        if not (models_dir / name / "active.json").is_file():
            pytest.fail(f"the model {name} is not in {models_dir}; run: make model")


def saved(pixels: np.ndarray, form: str = ".png") -> str:
    """Encode RGB, as base64."""
    return base64.b64encode(cv2.imencode(form, pixels[:, :, ::-1])[1].tobytes()).decode()


def opened(image: str) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(base64.b64decode(image), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert pixels is not None
    return np.asarray(pixels)


PHOTO = saved(astronaut())
BLACK = saved(np.zeros((64, 64, 3), np.uint8))
DLIB = [{"align": {"template": "dlib"}}]


@pytest.mark.parametrize("path", [PATH, "/api/process-image"])
def test_a_chip_has_the_vector_of_the_face(worker: Any, path: str) -> None:
    """An aligned chip, sent as one, is within a fraction of the threshold of what the photo gives."""
    answer = worker.post(path, {"image": PHOTO, "operations": DLIB})
    assert answer.status == 200, answer.body
    assert (answer.json["width"], answer.json["height"], answer.json["format"]) == (150, 150, "png")
    assert answer.headers["x-model"] == "blazeface-full-range"
    assert answer.headers["x-model-version"]
    chip = answer.json["image"]
    whole = worker.post("/v1/faces/embed", {"image": PHOTO}).json["embedding"]
    cut = worker.post("/v1/faces/embed", {"image": chip, "aligned": True}).json["embedding"]
    assert np.linalg.norm(np.subtract(whole, cut)) < 0.1


@pytest.mark.parametrize(
    ("template", "size", "side"), [("arcface", None, 112), ("dlib", None, 150), ("arcface", 256, 256)]
)
def test_the_eyes_are_where_the_template_wants_them(worker: Any, template: str, size: int | None, side: int) -> None:
    wanted = {"template": template} | ({} if size is None else {"size": size})
    chip = worker.post(PATH, {"image": PHOTO, "operations": [{"align": wanted}]}).json["image"]
    assert opened(chip).shape == (side, side, 3)
    (face,) = worker.post("/v1/faces/detect", {"image": chip, "detector": "short"}).json["faces"]
    left, right = face["landmarks"]["left_eye"], face["landmarks"]["right_eye"]
    across = {"arcface": (38.3 / 112, 73.5 / 112), "dlib": (45.3 / 150, 101.7 / 150)}[template]
    assert np.allclose([left[0] / side, right[0] / side], across, atol=0.045)
    assert abs(left[1] - right[1]) < 0.03 * side


def test_a_leaning_face_comes_back_upright(worker: Any) -> None:
    operations = [{"rotate": {"angle": 25}}, *DLIB]
    chip = worker.post(PATH, {"image": PHOTO, "operations": operations}).json["image"]
    (face,) = worker.post("/v1/faces/detect", {"image": chip, "detector": "short"}).json["faces"]
    assert abs(face["roll"]) < 5


def test_the_largest_face_is_meant(worker: Any) -> None:
    """Of two copies of a face the chip is that of the larger one, as when the other is not there; it is also the sharper one."""
    small = cv2.resize(astronaut(), (256, 256), interpolation=cv2.INTER_AREA)
    pair, left, right = (np.zeros((512, 768, 3), np.uint8) for _ in range(3))
    pair[:256, :256] = left[:256, :256] = small
    pair[:, 256:] = right[:, 256:] = astronaut()
    one, of_left, of_right = (
        opened(worker.post(PATH, {"image": saved(picture), "operations": DLIB}).json["image"])
        for picture in (pair, left, right)
    )
    assert distance(one, of_right) < distance(one, of_left) / 2
    assert sharpness(one) > 2 * sharpness(of_left)


def distance(one: Any, other: Any) -> float:
    return float(np.abs(one.astype(int) - other).mean())


def sharpness(image: Any) -> float:
    """The variance of the Laplacian."""
    return float(cv2.Laplacian(image, cv2.CV_64F).var())


def test_what_follows_is_done_to_the_chip(worker: Any) -> None:
    operations = [*DLIB, {"quality": {}}, {"normalize": {}}, {"convert": {"format": "jpeg"}}]
    answer = worker.post(PATH, {"image": PHOTO, "operations": operations}).json
    assert (answer["format"], answer["tensor"]["shape"]) == ("jpeg", [3, 150, 150])
    assert answer["quality"]["size"]["value"] == 150


@pytest.mark.parametrize("path", [PATH, "/api/process-image"])
def test_without_a_face_there_is_no_chip(worker: Any, path: str) -> None:
    answer = worker.post(path, {"image": BLACK, "operations": DLIB})
    assert answer.status == 422
    assert "no_face" in (answer.json.get("code"), answer.json.get("error", {}) and answer.json["error"].get("code"))


def test_of_several_images_only_the_one_without_a_face_fails(worker: Any) -> None:
    organisation = "aligned@example.org"
    body = {"images": [PHOTO, BLACK], "operations": DLIB}
    first, second = worker.post(PATH, body, key=worker.key(email=organisation)).json["results"]
    assert (first["width"], second["error"]["code"]) == (150, "no_face")
    assert worker.totals(organisation).units == 1


@pytest.mark.parametrize(
    "wanted",
    [{}, {"template": "best"}, {"template": "dlib", "size": 15}, {"template": "dlib", "size": 1025}, {"size": 150}],
)
def test_what_is_no_template_is_refused(worker: Any, wanted: dict[str, Any]) -> None:
    answer = worker.post(PATH, {"image": PHOTO, "operations": [{"align": wanted}]})
    assert (answer.status, answer.json["code"]) == (400, "invalid_request")


def test_a_missing_detector_is_named_and_other_operations_go_on(start_worker: Any) -> None:
    """A worker without face models."""
    textual = start_worker()
    answer = textual.post(PATH, {"image": PHOTO, "operations": DLIB})
    assert answer.status == 503
    assert "phalanx models pull blazeface-" in answer.json["detail"]
    assert textual.post(PATH, {"image": PHOTO, "operations": [{"resize": {"width": 9}}]}).status == 200
