"""YuNet of the user's own files: what is read off its outputs is what OpenCV reads, and what is no YuNet is refused."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from detector_graphs import write_random, write_seeing
from face_graphs import write_graph
from phalanx.engines.backends.images import open_image_backend
from phalanx.engines.choice import EngineChoice
from phalanx.engines.face.detector_golden import portrait, stored_golden
from phalanx.engines.face.facts import LEFT_EYE, MOUTH, NOSE, RIGHT_EYE
from phalanx.engines.face.yunet import decode, output_shapes
from phalanx.engines.face.yunet_detector import open_yunet
from phalanx.errors import Unavailable

SIDE = 640
ONNX = EngineChoice(engine="onnxruntime", threads=1)


def picture(seed: int, side: int) -> np.ndarray:
    """Noise in large spots, BGR."""
    coarse = np.random.default_rng(seed).integers(0, 256, (side // 16, side // 16, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(("seed", "side", "least"), [(0, 640, 0.6), (1, 640, 0.3), (2, 320, 0.5), (3, 320, 0.2)])
def test_what_is_decoded_is_what_opencv_decodes(
    tmp_path: Path, engine: str, seed: int, side: int, least: float
) -> None:
    """The same boxes, points and scores in the same order, hundreds of them."""
    graph = write_random(tmp_path / "yunet.onnx", side=side, seed=seed)
    bgr = picture(seed, side)
    _, expected = cv2.FaceDetectorYN.create(str(graph), "", (side, side), least, 0.3, 5000).detect(bgr)
    assert expected is not None
    backend = open_image_backend(graph, engine=engine, device="cpu", threads=1)  # type: ignore[arg-type]
    pixels = np.ascontiguousarray(bgr.transpose(2, 0, 1)[None], dtype=np.float32)
    found = decode(backend.infer(pixels), side, least)
    assert len(found.scores) == len(expected) > 20
    rows = np.concatenate((found.boxes, found.points.reshape(-1, 10), found.scores[:, None]), axis=1)
    # Two engines add up in other orders: where two scores are that near, they may change places.
    assert np.abs(rows[:, 14] - expected[:, 14]).max() < 1e-4
    nearest = np.abs(rows[:, None, :4] - expected[None, :, :4]).max(axis=2).argmin(axis=1)
    assert len(set(nearest.tolist())) == len(rows)
    np.testing.assert_allclose(rows, expected[nearest], rtol=1e-3, atol=0.05)


def test_cells_and_strides_by_hand() -> None:
    """One cell of stride 16 in row 1 and column 2: the sums of the paper."""
    outputs = {name: np.zeros(shape, dtype=np.float32) for name, shape in output_shapes(64).items()}
    cell = 1 * 4 + 2
    outputs["cls_16"][0, cell], outputs["obj_16"][0, cell] = 0.9, 1.6
    outputs["bbox_16"][0, cell] = 0.5, -0.25, np.log(2), np.log(3)
    outputs["kps_16"][0, cell] = np.arange(10) / 10
    found = decode(outputs, 64, 0.5)
    assert found.scores == pytest.approx([np.sqrt(0.9)])
    assert found.boxes[0] == pytest.approx([40 - 16, 12 - 24, 32, 48])
    assert found.points[0, 0] == pytest.approx([32, 16 + 1.6])
    assert found.points[0, 4] == pytest.approx([(2 + 0.8) * 16, (1 + 0.9) * 16], rel=1e-6)
    assert len(decode(outputs, 64, 0.95).scores) == 0


def test_numbers_that_are_none_are_no_faces() -> None:
    outputs = {name: np.full(shape, np.nan, dtype=np.float32) for name, shape in output_shapes(64).items()}
    assert len(decode(outputs, 64, 0.2).scores) == 0
    outputs = {name: np.full(shape, 400.0, dtype=np.float32) for name, shape in output_shapes(64).items()}
    with np.errstate(over="ignore"):
        decode(outputs, 64, 0.2)


def portrait_facts(scale: float = SIDE / 192) -> tuple[list[float], list[list[float]]]:
    """The portrait's face in the network's square, in YuNet's order."""
    face = stored_golden().looks[0].face()
    points = face.keypoints * scale
    corner = np.array([18.0 * scale, 0.0])
    five = [points[LEFT_EYE], points[RIGHT_EYE], points[NOSE], points[MOUTH] - corner, points[MOUTH] + corner]
    return [value * scale for value in face.box], [point.tolist() for point in five]


def test_a_known_face_is_found_with_its_five_points(tmp_path: Path) -> None:
    """In the image's pixels, left and right as seen in the image, the corners of the mouth as the network says."""
    box, points = portrait_facts()
    detector = open_yunet(write_seeing(tmp_path / "yunet.onnx", box=box, points=points), ONNX)
    try:
        (faces,) = detector.run([detector.prepare(portrait())])
        (face,) = faces
        expected = stored_golden().looks[0].face()
        assert np.abs(np.array(face.box) - np.array(expected.box)).max() < 0.5
        assert np.abs(face.keypoints[:4] - expected.keypoints[:4]).max() < 0.5
        assert face.mouth_corners is not None
        left, right = face.mouth_corners
        assert left[0] < face.keypoints[MOUTH][0] < right[0]
        assert face.keypoints[LEFT_EYE][0] < face.keypoints[RIGHT_EYE][0]
        assert detector.estimated == ()
    finally:
        detector.close()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"swapped": True}, "has a landmark of a portrait"),
        ({"in_black": True}, "finds faces in black"),
    ],
)
def test_a_network_that_does_not_see_a_known_face_is_refused(
    tmp_path: Path, change: dict[str, bool], told: str
) -> None:
    box, points = portrait_facts()
    graph = write_seeing(tmp_path / "yunet.onnx", box=box, points=points, **change)
    with pytest.raises(Unavailable, match=told):
        open_yunet(graph, ONNX)


def test_another_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"gives fc1; YuNet takes \(1, 3, side, side\)"):
        open_yunet(write_graph(tmp_path / "arcface.onnx"), ONNX)


def test_a_graph_with_a_free_side_is_given_the_usual_one(tmp_path: Path) -> None:
    """It is untrained, and says so only after it has been run."""
    for engine in ("onnxruntime", "openvino"):
        graph = write_random(tmp_path / f"{engine}.onnx", side="side")
        with pytest.raises(Unavailable, match="that was trained"):
            open_yunet(graph, EngineChoice(engine=engine, threads=1))
