"""The face detector with its real networks: on the astronaut everywhere, on the reference photos where they are."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage import data as photos

from phalanx.engines.choice import EngineChoice
from phalanx.engines.face.detector import FaceDetector, Mode, prepare, roll_of
from phalanx.engines.face.facts import Face
from phalanx.engines.face.opening import open_detector
from phalanx.engines.image.decode import decode
from phalanx.errors import Unavailable
from phalanx.models.store import ModelStore
from pictures import Pixels, astronaut, noise, quarters

REPOSITORY = Path(__file__).parents[2]
PHOTOS = Path(os.environ.get("PHALANX_REFERENCE", REPOSITORY.parent / "shared" / "reference")) / "faces"
LABELS = PHOTOS / "labels.json"

BOX = (173, 73, 102, 102)
LANDMARKS = np.array([[203.8, 102.9], [247.1, 103.7], [225.2, 130.2], [224.3, 149.2], [180.1, 109.0], [268.7, 112.0]])
"""Of the astronaut, looked at: the eyes, the tip of the nose, the middle of the mouth, the ears. To the pixel they are
the mean of what is found in the photo and in its mirror image, which differ by 3."""

needs_photos = pytest.mark.skipif(not LABELS.is_file(), reason="no reference photos; PHALANX_REFERENCE names them")


def files(models_dir: Path) -> tuple[Path, Path]:
    store = ModelStore(models_dir)
    full, short = (store.active(f"blazeface-{name}-range").path("model.tflite") for name in ("full", "short"))
    return full, short


@pytest.fixture(scope="module")
def detector(models_dir: Path) -> Iterator[FaceDetector]:
    opened = open_detector(*files(models_dir), EngineChoice(precision="f32", threads=2))
    yield opened
    opened.close()


def detect(detector: FaceDetector, image: Pixels, mode: Mode = "auto", min_score: float = 0.5) -> list[Face]:
    return detector.run([prepare(np.ascontiguousarray(image), mode=mode, min_score=min_score)])[0]


def overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Intersection over union."""
    across = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    down = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    shared = max(0.0, across) * max(0.0, down)
    return shared / (one[2] * one[3] + other[2] * other[3] - shared)


@pytest.mark.parametrize("mode", ["auto", "full", "short"])
def test_the_astronaut(detector: FaceDetector, mode: Mode) -> None:
    """Landmarks within 3 % of the face's size."""
    (face,) = detect(detector, astronaut(), mode)
    assert overlap(face.box, BOX) > 0.85
    assert np.abs(face.keypoints - LANDMARKS).max() < 0.03 * BOX[2]
    assert face.score > 0.85


def test_a_mirror_image_keeps_left_and_right_as_seen(detector: FaceDetector) -> None:
    (face,) = detect(detector, astronaut()[:, ::-1])
    mirrored = LANDMARKS[[1, 0, 2, 3, 5, 4]] * (-1, 1) + np.array([512, 0])
    assert np.abs(face.keypoints - mirrored).max() < 0.03 * BOX[2]
    assert face.keypoints[0, 0] < face.keypoints[1, 0]


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_photo_turned_by_exif_is_upright(detector: FaceDetector, orientation: int) -> None:
    """As a camera held otherwise stores it."""
    turns = {3: 2, 6: 1, 8: 3}[orientation]
    stored = cv2.imencode(".jpg", np.ascontiguousarray(np.rot90(astronaut(), turns)[:, :, ::-1]))[1].tobytes()
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0%c\0\0\0\0\0\0" % orientation
    data = stored[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + stored[2:]
    (face,) = detect(detector, decode(data, max_pixels=10**6).pixels)
    assert np.abs(face.keypoints - LANDMARKS).max() < 0.03 * BOX[2]


@pytest.mark.parametrize("degrees", [-60, -30, 30, 60])
def test_a_leaning_face_has_its_roll(detector: FaceDetector, degrees: float) -> None:
    """Clockwise is positive."""
    turn = cv2.getRotationMatrix2D((224, 124), -degrees, 1.0)
    (face,) = detect(detector, np.asarray(cv2.warpAffine(astronaut(), turn, (512, 512)), np.uint8))
    assert np.degrees(roll_of(face)) == pytest.approx(degrees + 2, abs=6)
    expected = LANDMARKS @ turn[:, :2].T + turn[:, 2]
    assert np.abs(face.keypoints[:4] - expected[:4]).max() < 0.06 * BOX[2]


@pytest.mark.parametrize("degrees", range(75, 300, 15))
def test_a_face_that_is_upside_down_is_found_as_it_lies(detector: FaceDetector, degrees: int) -> None:
    """Not as an upright one in the same place, whose eyes would be where the mouth is."""
    turn = cv2.getRotationMatrix2D((224, 124), -degrees, 1.0) + np.array([[0, 0, 32], [0, 0, 132]])
    (face,) = detect(detector, np.asarray(cv2.warpAffine(astronaut(), turn, (512, 512)), np.uint8))
    expected = LANDMARKS @ turn[:, :2].T + turn[:, 2]
    assert np.abs(face.keypoints[:4] - expected[:4]).max() < 0.08 * BOX[2]


@pytest.mark.parametrize("size", [160, 256, 1024, 3000])
def test_size_does_not_matter(detector: FaceDetector, size: int) -> None:
    how = cv2.INTER_AREA if size < 512 else cv2.INTER_CUBIC
    (face,) = detect(detector, np.asarray(cv2.resize(astronaut(), (size, size), interpolation=how), np.uint8))
    assert np.abs(face.keypoints * 512 / size - LANDMARKS).max() < 0.04 * BOX[2]


@pytest.mark.parametrize(
    "image",
    [np.zeros((512, 512, 3), np.uint8), np.full((64, 64, 3), 255, np.uint8), noise(512, 512), noise(1, 1),
     noise(1, 4000), quarters(), astronaut()[300:, :200]],
    ids=["black", "white", "noise", "pixel", "line", "quarters", "no face"],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["auto", "full", "short", "tiled"])
def test_where_there_is_none_none_is_found(detector: FaceDetector, image: Pixels, mode: Mode) -> None:
    assert detect(detector, image, mode) == []


def test_faces_come_from_left_to_right(detector: FaceDetector) -> None:
    """Of different sizes; each is where it would be alone."""
    smaller = np.asarray(cv2.resize(astronaut(), (400, 400), interpolation=cv2.INTER_AREA), np.uint8)
    canvas = np.zeros((512, 912, 3), np.uint8)
    canvas[:400, :400], canvas[:, 400:] = smaller, astronaut()
    faces = detect(detector, canvas)
    assert len(faces) == 2
    assert np.abs(faces[0].keypoints - LANDMARKS * 400 / 512).max() < 0.05 * BOX[2]
    shifted = LANDMARKS + np.array([400, 0])
    assert np.abs(faces[1].keypoints - shifted).max() < 0.05 * BOX[2]


def test_many_faces(detector: FaceDetector) -> None:
    """A wall of 25, each a seventh of its side wide; all but one or two are found, none twice."""
    side = 150
    faces = detect(detector, np.tile(astronaut()[49 : 49 + side, 149 : 149 + side], (5, 5, 1)))
    tiles = {(int(f.box.x + f.box.width / 2) // side, int(f.box.y + f.box.height / 2) // side) for f in faces}
    assert 23 <= len(faces) == len(tiles)


def test_a_face_cut_by_the_border_is_found(detector: FaceDetector) -> None:
    """Its box reaches beyond the image."""
    (face,) = detect(detector, astronaut()[:, 195:])
    assert face.box.x < 0
    assert overlap(face.box, (BOX[0] - 195, *BOX[1:])) > 0.7


def test_near_faces_are_left_to_short_range(detector: FaceDetector) -> None:
    """Full range is weak where the face fills the image; auto looks with both."""
    near = astronaut()[70:180, 170:280]
    (face,) = detect(detector, near)
    assert np.abs(face.keypoints - (LANDMARKS - (170, 70)))[:4].max() < 0.06 * BOX[2]


def test_alone_or_in_a_batch_is_the_same(detector: FaceDetector) -> None:
    """To the last bit, whatever shares the batch, and in bfloat16 nearly the same."""
    (alone,) = detect(detector, astronaut())
    looks = [prepare(image) for image in (noise(300, 200), astronaut(), astronaut()[:, ::-1].copy(), astronaut())]
    for _ in range(3):
        results = detector.run(looks)
        for faces in (results[1], results[3]):
            assert faces[0].box == alone.box
            assert np.array_equal(faces[0].keypoints, alone.keypoints)
        assert results[0] == []


def test_precision_moves_little(detector: FaceDetector, models_dir: Path) -> None:
    """`auto` is bfloat16 where the processor has it."""
    other = open_detector(*files(models_dir), EngineChoice(threads=1))
    (exact,), (quick,) = detect(detector, astronaut()), detect(other, astronaut())
    assert np.abs(exact.keypoints - quick.keypoints).max() < 0.02 * BOX[2]
    assert abs(exact.score - quick.score) < 0.02


def test_networks_that_are_not_these_are_refused(models_dir: Path, tmp_path: Path) -> None:
    full, short = files(models_dir)
    with pytest.raises(Unavailable, match="BlazeFace takes"):
        open_detector(short, full)
    damaged = tmp_path / "model.tflite"
    damaged.write_bytes(full.read_bytes()[:1000])
    with pytest.raises(Unavailable, match="cannot read"):
        open_detector(damaged, short)


def crowd(side: int, columns: int = 20, rows: int = 10, cell: int = 100) -> Pixels:
    """Faces of about `side` pixels before a wall, every other one in a mirror."""
    wall = cv2.resize(astronaut()[300:, :200], (columns * cell, rows * cell), interpolation=cv2.INTER_CUBIC)
    size = side * 3 // 2
    head = cv2.resize(astronaut()[49:199, 149:299], (size, size), interpolation=cv2.INTER_AREA)
    for number in range(columns * rows):
        x, y = (number % columns) * cell + (cell - size) // 2, (number // columns) * cell + (cell - size) // 2
        wall[y : y + size, x : x + size] = head[:, :: -1 if number % 2 else 1]
    return np.asarray(wall, np.uint8)


@pytest.mark.parametrize("side", [32, 48, 64])
def test_two_hundred_faces_are_found_in_tiles(detector: FaceDetector, side: int) -> None:
    """Each of them, once, but for one or two of the smallest; the whole picture shows hardly any."""
    image = crowd(side)
    faces = detect(detector, image, "tiled")
    cells = {(int(f.box.x + f.box.width / 2) // 100, int(f.box.y + f.box.height / 2) // 100) for f in faces}
    assert len(cells) == len(faces) >= (198 if side == 32 else 200)
    assert all(abs(face.box.width - side) < 0.35 * side for face in faces)
    assert len(detect(detector, image, "full")) < 20


@pytest.mark.parametrize("side", [56, 80])
def test_a_group_is_looked_at_in_halves(detector: FaceDetector, side: int) -> None:
    """Of sixty faces, a fifteenth or a tenth of the picture, all or nearly all are found, once; full range misses many."""
    cell = side * 3 // 2
    image = crowd(side, columns=10, rows=6, cell=cell)
    faces = detect(detector, image)
    cells = {(int(f.box.x + f.box.width / 2) // cell, int(f.box.y + f.box.height / 2) // cell) for f in faces}
    assert len(cells) == len(faces) >= 58
    assert len(detect(detector, image, "full")) < 55


def test_a_crowd_is_looked_at_in_thirds(detector: FaceDetector) -> None:
    """Of 144 faces, a twenty-fourth of the picture, halves show 19."""
    cell = 54
    faces = detect(detector, crowd(36, columns=16, rows=9, cell=cell))
    cells = {(int(f.box.x + f.box.width / 2) // cell, int(f.box.y + f.box.height / 2) // cell) for f in faces}
    assert len(cells) == len(faces) >= 138


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_group_on_its_side_is_found_as_if_upright(detector: FaceDetector, turns: int) -> None:
    """A photo whose file does not say how the camera was held."""
    upright = crowd(80, columns=6, rows=4, cell=120)
    faces = detect(detector, np.rot90(upright, turns))
    assert len(faces) == len(detect(detector, upright)) == 24
    lean = [round(float(np.degrees(roll_of(face))) / 90) % 4 for face in faces]
    assert lean == [-turns % 4] * 24


def test_a_high_confidence_keeps_the_same_face(detector: FaceDetector) -> None:
    """As long as the face has it."""
    (usual,) = detect(detector, astronaut())
    (sure,) = detect(detector, astronaut(), min_score=usual.score - 0.01)
    assert sure.box == usual.box
    assert np.array_equal(sure.keypoints, usual.keypoints)
    assert detect(detector, astronaut(), min_score=usual.score + 0.01) == []


def test_tiles_have_a_large_face_once(detector: FaceDetector) -> None:
    """Where the whole picture has it."""
    (face,) = detect(detector, astronaut(), "tiled")
    assert overlap(face.box, BOX) > 0.85
    assert np.abs(face.keypoints - LANDMARKS).max() < 0.03 * BOX[2]


@pytest.mark.parametrize("mode", ["auto", "tiled"])
@pytest.mark.parametrize(
    "name", ["hubble_deep_field", "page", "coins", "gravel", "brick", "text", "coffee", "colorwheel", "chelsea"]
)
def test_no_faces_are_seen_in_things(detector: FaceDetector, name: str, mode: Mode) -> None:
    """Stars, letters, coins and stones, a cat's face, also enlarged."""
    image = np.asarray(getattr(photos, name)(), np.uint8)
    image = np.repeat(image[:, :, None], 3, axis=2) if image.ndim == 2 else image[:, :, :3]
    for factor in (0.5, 1, 3):
        other = np.asarray(cv2.resize(np.ascontiguousarray(image), None, fx=factor, fy=factor), np.uint8)
        assert detect(detector, other, mode) == []


@needs_photos
@pytest.mark.parametrize("mode", ["auto", "full", "tiled"])
def test_every_labelled_face_and_no_other(detector: FaceDetector, mode: Mode) -> None:
    """Faces that the labels allow to be missed are further to the right than those that they name."""
    labels = json.loads(LABELS.read_text(encoding="utf-8"))
    for name, persons in labels["faces"].items():
        faces = detect(detector, decode((PHOTOS / name).read_bytes(), max_pixels=10**8).pixels, mode)
        extra = len(faces) - len(persons)
        assert extra in ((0, 1) if name in labels["also_visible"] else (0,)), name
        lefts = [face.box.x for face in faces]
        assert lefts == sorted(lefts)
