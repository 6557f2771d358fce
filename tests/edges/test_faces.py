"""Faces over HTTP: canonical rows, the plural, every form of body, aurum's routes, and what is refused."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pictures import astronaut

FACE = (173, 73, 102, 102)
"""Left, top, width and height of the astronaut's face in pixels, by hand to about five."""


def jpeg(image: np.ndarray) -> bytes:
    """Encode RGB."""
    return bytes(cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1])


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


PHOTO = jpeg(astronaut())
BLACK = jpeg(np.zeros((64, 64, 3), np.uint8))


@pytest.fixture(scope="module", autouse=True)
def face_models(models_dir: Path) -> None:
    """The models that `make model` pulls."""
    for name in ("blazeface-full-range", "blazeface-short-range", "dlib-resnet-v1"):
        if not (models_dir / name / "active.json").is_file():
            pytest.fail(f"the model {name} is not in {models_dir}; run: make model")


def is_the_face(bbox: dict[str, float], within: float = 12.0) -> bool:
    return bool(np.allclose([bbox[n] for n in ("x", "y", "width", "height")], FACE, atol=within))


def test_one_face_is_found(worker: Any) -> None:
    answer = worker.post("/v1/faces/detect", {"image": text(PHOTO)})
    assert answer.status == 200, answer.body
    (face,) = answer.json["faces"]
    assert is_the_face(face["bbox"])
    assert face["confidence"] > 0.8
    assert 0.5 < face["quality"] <= 1
    assert abs(face["roll"]) < 10
    marks = face["landmarks"]
    assert marks["left_eye"][0] < marks["nose"][0] < marks["right_eye"][0]
    assert marks["left_mouth"][0] < marks["right_mouth"][0]
    assert answer.json["landmarks_estimated"] == ["left_mouth", "right_mouth"]
    assert (answer.json["width"], answer.json["height"]) == (512, 512)
    assert "results" not in answer.json
    assert answer.headers["x-model"] == answer.json["model"] == "blazeface-full-range"


def test_an_image_without_a_face_has_no_faces(worker: Any) -> None:
    answer = worker.post("/v1/faces/detect", {"image": text(BLACK)})
    assert (answer.status, answer.json["faces"]) == (200, [])


def test_the_body_may_be_the_image(worker: Any) -> None:
    headers = {"content-type": "image/jpeg"}
    whole = worker.post("/v1/faces/detect", {"image": text(PHOTO)}).json
    assert worker.post("/v1/faces/detect", body=PHOTO, headers=headers).json == whole
    sure = worker.post("/v1/faces/detect?min_confidence=0.999", body=PHOTO, headers=headers)
    assert (sure.status, sure.json["faces"]) == (200, [])


def test_several_images_have_an_error_each(worker: Any) -> None:
    answer = worker.post("/v1/faces/detect", {"images": [text(PHOTO), "rubbish!", text(BLACK)]})
    assert answer.status == 200
    first, second, third = answer.json["results"]
    assert is_the_face(first["faces"][0]["bbox"])
    assert second == {"error": {"code": "unreadable_input", "detail": second["error"]["detail"]}}
    assert third["faces"] == []


@pytest.mark.parametrize("row", ["detect", "embed"])
def test_images_are_billed_one_by_one(worker: Any, row: str) -> None:
    organisation = f"faces-{row}@example.org"
    key = worker.key(email=organisation)
    worker.post(f"/v1/faces/{row}", {"images": [text(PHOTO), text(PHOTO), "rubbish!"]}, key=key)
    totals = worker.totals(organisation)
    assert (totals.requests, totals.units) == (1, 2)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 400, "invalid_request"),
        ({"image": "x", "images": ["x"]}, 400, "invalid_request"),
        ({"images": []}, 400, "invalid_request"),
        ({"images": ["eA=="] * 33}, 400, "invalid_request"),
        ({"image": 5}, 400, "invalid_request"),
        ({"image": "eA==", "min_confidence": 0.1}, 400, "invalid_request"),
        ({"image": "eA==", "detector": "best"}, 400, "invalid_request"),
        ({"image": "eA==", "max_faces": 0}, 400, "invalid_request"),
        ({"image": "eA=="}, 422, "unreadable_input"),
        ({"image": "not base64"}, 422, "unreadable_input"),
        # Its header is good; the detector's thread finds that its pixels are not.
        ({"image": text(PHOTO.replace(b"\xff\xdb", b"\xff\xed"))}, 422, "unreadable_input"),
        ({"image": "http://127.0.0.1/face.jpg"}, 400, "invalid_request"),
    ],
)
def test_what_cannot_be_looked_at_is_refused(worker: Any, body: dict[str, Any], status: int, code: str) -> None:
    answer = worker.post("/v1/faces/detect", body)
    assert (answer.status, answer.json["code"]) == (status, code), answer.body


def test_a_face_becomes_a_vector(worker: Any) -> None:
    answer = worker.post("/v1/faces/embed", {"image": text(PHOTO)})
    assert answer.status == 200, answer.body
    found = answer.json
    assert len(found["embedding"]) == found["dimensions"] == 128
    assert (found["metric"], found["threshold"], found["model"]) == ("euclidean", 0.6, "dlib-resnet-v1")
    assert 1 < np.linalg.norm(found["embedding"]) < 2
    assert found["confidence"] > 0.8
    assert is_the_face(found["bbox"])
    assert answer.headers["x-model"] == "dlib-resnet-v1"


def test_all_faces_or_one_by_number(worker: Any) -> None:
    pair = text(jpeg(np.hstack([astronaut(), astronaut()])))
    both = worker.post("/v1/faces/embed", {"image": pair, "face": "all"}).json["faces"]
    assert [round(face["bbox"]["x"] / 512) for face in both] == [0, 1]
    second = worker.post("/v1/faces/embed", {"image": pair, "face": 1}).json
    assert np.allclose(second["embedding"], both[1]["embedding"], atol=1e-2)
    beyond = worker.post("/v1/faces/embed", {"image": pair, "face": 2})
    assert (beyond.status, beyond.json["param"]) == (400, "face") or "0 to 1" in beyond.json["detail"]


def test_without_a_face_there_is_no_vector(worker: Any) -> None:
    answer = worker.post("/v1/faces/embed", {"image": text(BLACK)})
    assert (answer.status, answer.json["code"]) == (422, "no_face")


def test_an_aligned_image_is_embedded_as_it_is(worker: Any) -> None:
    answer = worker.post("/v1/faces/embed", {"image": text(BLACK), "aligned": True})
    assert answer.status == 200, answer.body
    assert len(answer.json["embedding"]) == 128
    assert "bbox" not in answer.json
    assert "confidence" not in answer.json


def test_an_unknown_model_is_refused(worker: Any) -> None:
    answer = worker.post("/v1/faces/embed", {"image": text(PHOTO), "model": "arcface"})
    assert (answer.status, answer.json["code"]) == (404, "model_not_found")


def test_a_face_is_itself_and_its_mirror_image(worker: Any) -> None:
    mirrored = text(jpeg(astronaut()[:, ::-1]))
    answer = worker.post("/v1/faces/compare", {"images": [text(PHOTO), mirrored]})
    assert answer.status == 200, answer.body
    assert answer.json["same"] is True
    assert 0 < answer.json["distance"] < answer.json["threshold"] == 0.6
    assert len(answer.json["faces"]) == 2
    alike = worker.post("/v1/faces/compare", {"images": [text(PHOTO)] * 2}).json
    assert alike["distance"] < 0.02


@pytest.mark.parametrize("images", [[], [text(PHOTO)], [text(PHOTO)] * 3])
def test_two_images_are_compared(worker: Any, images: list[str]) -> None:
    assert worker.post("/v1/faces/compare", {"images": images}).status == 400


def test_comparing_needs_a_face_in_both(worker: Any) -> None:
    answer = worker.post("/v1/faces/compare", {"images": [text(PHOTO), text(b"none")]})
    assert (answer.status, answer.json["param"], answer.json["detail"][:10]) == (422, "images[1]", "images[1]:")
    answer = worker.post("/v1/faces/compare", {"images": [text(PHOTO), text(BLACK)]})
    assert answer.json["param"] == "images[1]"
    assert (answer.status, answer.json["code"]) == (422, "no_face")


def test_a_missing_model_is_named_and_text_is_served(
    start_worker: Callable[..., Any], models_dir: Path, tmp_path: Path
) -> None:
    """A store with the text model alone."""
    (tmp_path / "all-MiniLM-L6-v2").symlink_to(models_dir / "all-MiniLM-L6-v2")
    bare = start_worker(MODEL_DIR=str(tmp_path))
    for path in ("/v1/faces/detect", "/v1/faces/embed"):
        answer = bare.post(path, {"image": text(PHOTO)})
        assert (answer.status, answer.json["code"]) == (503, "unavailable")
        assert "phalanx models pull" in answer.json["detail"]
        assert "retry-after" in answer.headers
    assert bare.get("/readyz").status == 200
    assert bare.post("/v1/text/embed", {"texts": ["a"]}).status == 200


def test_aurum_finds_the_face(worker: Any) -> None:
    """Fields that are not known are ignored, and any confidence may be asked for."""
    answer = worker.post("/api/detect-face", {"image": text(PHOTO), "min_confidence": 0, "colour": "red"})
    assert answer.status == 200, answer.body
    assert any(is_the_face(face["bbox"]) for face in answer.json["faces"])
    raw = worker.post("/api/detect-face", body=PHOTO, headers={"content-type": "image/jpeg"})
    assert is_the_face(raw.json["faces"][0]["bbox"])


@pytest.mark.parametrize("path", ["/api/detect-face", "/api/extract-embedding"])
def test_aurum_takes_a_detector(worker: Any, path: str) -> None:
    """As the canonical rows do; null is none."""
    for detector in ("short", None):
        assert worker.post(path, {"image": text(PHOTO), "detector": detector}).status == 200
    refused = worker.post(path, {"image": text(PHOTO), "detector": "none such"})
    assert (refused.status, refused.json["error"]["code"]) == (400, "invalid_request")


def test_aurum_takes_a_model(worker: Any) -> None:
    assert worker.post("/api/extract-embedding", {"image": text(PHOTO), "model": "dlib-resnet-v1"}).status == 200
    refused = worker.post("/api/extract-embedding", {"image": text(PHOTO), "model": "none such"})
    assert (refused.status, refused.json["error"]["code"]) == (404, "model_not_found")


def test_aurum_extracts_the_vector(worker: Any) -> None:
    there = worker.post("/api/extract-embedding", {"image": text(PHOTO)})
    here = worker.post("/v1/faces/embed", {"image": text(PHOTO)})
    assert here.json["cached"]
    assert there.json | {"cached": True} == here.json
    none = worker.post("/api/extract-embedding", {"image": text(BLACK)})
    assert none.status == 422
    assert none.json["error"]["code"] == "no_face"
    assert none.json["request_id"]


def other(seed: int) -> bytes:
    """Return the photo under another digest."""
    return PHOTO + bytes([seed])


@pytest.mark.parametrize("row", ["detect", "embed"])
def test_an_image_seen_before_is_not_looked_at_again(worker: Any, row: str) -> None:
    organisation = f"cached-{row}@example.org"
    key = worker.key(email=organisation)
    body = {"image": text(other(1))}
    first = worker.post(f"/v1/faces/{row}", body, key=key)
    again = worker.post(f"/v1/faces/{row}", body, key=key)
    assert (first.json.pop("cached"), again.json.pop("cached")) == (False, True)
    assert {**first.json, "cached": 0} == {**again.json, "cached": 0}
    assert "engine;dur=0.0" in again.headers["server-timing"]
    assert again.headers["x-model"] == first.headers["x-model"]
    totals = worker.totals(organisation)
    assert (totals.requests, totals.units, totals.cached) == (2, 2, 1)


def test_the_form_in_which_an_image_came_does_not_matter(worker: Any) -> None:
    image = other(2)
    worker.post("/v1/faces/detect", {"image": text(image)})
    raw = worker.post("/v1/faces/detect", body=image, headers={"content-type": "image/jpeg"})
    old = worker.post("/api/detect-face", {"image": f"data:image/jpeg;base64,{text(image)}"})
    assert (raw.json["cached"], old.json["cached"]) == (True, True)


@pytest.mark.parametrize(
    ("row", "options"),
    [
        ("detect", {"min_confidence": 0.6}), ("detect", {"max_faces": 1}), ("detect", {"detector": "full"}),
        ("embed", {"face": "all"}), ("embed", {"face": 0}), ("embed", {"aligned": True}),
        ("embed", {"detector": "short"}), ("embed", {"min_confidence": 0.4}),
    ],
)  # fmt: skip
def test_every_option_decides(worker: Any, row: str, options: dict[str, Any]) -> None:
    image = text(other(3))
    worker.post(f"/v1/faces/{row}", {"image": image})
    answers = [worker.post(f"/v1/faces/{row}", {"image": image, **options}) for _ in range(2)]
    assert [answer.json["cached"] for answer in answers] == [False, True]
    assert worker.post(f"/v1/faces/{row}", {"image": image}).json["cached"] is True


def test_organisations_share_no_faces(worker: Any) -> None:
    body = {"image": text(other(4))}
    seen = [
        worker.post("/v1/faces/detect", body, key=worker.key(email=f"{name}@faces.example")).json["cached"]
        for name in ("ann", "bob", "ann")
    ]
    assert seen == [False, False, True]


def test_organisations_share_faces_where_that_is_set(start_worker: Callable[..., Any], models_dir: Path) -> None:
    sharing = start_worker(CACHE_SCOPE="shared", MODEL_DIR=str(models_dir))
    body = {"image": text(other(5))}
    seen = [
        sharing.post("/v1/faces/detect", body, key=sharing.key(email=f"{name}@faces.example")).json["cached"]
        for name in ("ann", "bob")
    ]
    assert seen == [False, True]


def test_nothing_is_kept_without_room(start_worker: Callable[..., Any], models_dir: Path) -> None:
    forgetful = start_worker(RESULT_CACHE_BYTES="0", MODEL_DIR=str(models_dir))
    body = {"image": text(other(6))}
    assert [forgetful.post("/v1/faces/detect", body).json["cached"] for _ in range(2)] == [False, False]


def test_each_of_several_images_says_whether_it_was_cached(worker: Any) -> None:
    key = worker.key(email="several@faces.example")
    worker.post("/v1/faces/detect", {"image": text(other(7))}, key=key)
    answer = worker.post("/v1/faces/detect", {"images": [text(other(7)), "rubbish!", text(other(8))]}, key=key)
    assert [result.get("cached") for result in answer.json["results"]] == [True, None, False]
    assert "cached" not in answer.json
    assert worker.totals("several@faces.example").cached == 1


def test_faces_compared_before_are_compared_from_the_cache(worker: Any) -> None:
    key = worker.key(email="compared@faces.example")
    body = {"images": [text(other(9)), text(other(10))]}
    first = worker.post("/v1/faces/compare", body, key=key).json
    assert worker.post("/v1/faces/compare", body, key=key).json == first
    assert worker.totals("compared@faces.example").cached == 2


def test_an_image_without_a_face_fails_the_same_way_again(worker: Any) -> None:
    for _ in range(2):
        assert worker.post("/v1/faces/embed", {"image": text(BLACK)}).status == 422


def files(*parts: tuple[str, bytes]) -> dict[str, Any]:
    """A form with files."""
    head = b'--b\r\nContent-Disposition: form-data; name="%b"; filename="a.jpg"\r\n\r\n%b\r\n'
    body = b"".join(head % (name.encode(), data) for name, data in parts) + b"--b--\r\n"
    return {"body": body, "headers": {"content-type": "multipart/form-data; boundary=b"}}


def test_a_form_may_have_several_files(worker: Any) -> None:
    """They are the images in their order, whatever the parts are called."""
    answer = worker.post(
        "/v1/faces/detect?max_faces=1", **files(("images", PHOTO), ("images", BLACK), ("x", b"rubbish"))
    )
    assert answer.status == 200, answer.body
    first, second, third = answer.json["results"]
    assert is_the_face(first["faces"][0]["bbox"])
    assert (second["faces"], third["error"]["code"]) == ([], "unreadable_input")


def test_two_files_of_a_form_are_compared(worker: Any) -> None:
    answer = worker.post("/v1/faces/compare", **files(("a", PHOTO), ("b", PHOTO)))
    assert (answer.status, answer.json["same"]) == (200, True)
    for parts in ((("a", PHOTO),), ()):
        refused = worker.post("/v1/faces/compare", **files(*parts))
        assert (refused.status, refused.json["code"]) == (400, "invalid_request")
    raw = worker.post("/v1/faces/compare", body=PHOTO, headers={"content-type": "image/jpeg"})
    assert (raw.status, raw.json["code"]) == (400, "invalid_request")


def test_a_form_has_as_many_files_as_a_request_has_images(worker: Any) -> None:
    refused = worker.post("/v1/faces/detect", **files(*[("images", BLACK)] * 33))
    assert (refused.status, refused.json["code"]) == (400, "invalid_request")
