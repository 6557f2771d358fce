"""Each fault of a face lowers its own measure, is named, and lowers the whole."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from phalanx.engines.face.facts import Box, Face
from phalanx.engines.face.quality import WEIGHTS, assess
from pictures import astronaut

KEYPOINTS = np.array([[202, 103], [246, 104], [223, 128.5], [223, 151], [180, 109], [269, 111]], np.float32)
GOOD = Face(Box(173, 73, 102, 102), KEYPOINTS, 0.93)


def moved(point: int, x: float = 0, y: float = 0) -> Face:
    keypoints = KEYPOINTS.copy()
    keypoints[point] += (x, y)
    return GOOD._replace(keypoints=keypoints)


def test_a_good_face_has_little_wanting() -> None:
    quality = assess(astronaut(), GOOD)
    assert quality.reasons == ()
    assert quality.overall > 0.7
    assert abs(quality.yaw) < 10
    assert abs(quality.pitch) < 10
    assert quality.roll == pytest.approx(1.3, abs=0.1)


def test_the_whole_is_the_weighted_geometric_mean() -> None:
    quality = assess(astronaut(), GOOD)
    assert sum(WEIGHTS.values()) == pytest.approx(1)
    assert quality.overall == pytest.approx(np.prod([getattr(quality, n) ** w for n, w in WEIGHTS.items()]))


@pytest.mark.parametrize(
    ("image", "face", "measure", "reason"),
    [
        (cv2.GaussianBlur(astronaut(), (0, 0), 6), GOOD, "sharpness", "blurred"),
        (astronaut() // 8, GOOD, "exposure", "dark"),
        (255 - astronaut() // 8, GOOD, "exposure", "bright"),
        (astronaut(), moved(2, x=30), "pose", "turned"),
        (astronaut(), moved(2, x=-30), "pose", "turned"),
        (astronaut(), moved(2, y=26), "pose", "nodding"),
        (astronaut()[:, 200:], GOOD._replace(box=Box(-27, 73, 102, 102)), "completeness", "cut_off"),
        (astronaut(), GOOD._replace(score=0.3), "detection", "uncertain"),
    ],
)
def test_a_fault_is_measured_and_named(image: np.ndarray, face: Face, measure: str, reason: str) -> None:
    good, bad = assess(astronaut(), GOOD), assess(np.asarray(image, np.uint8), face)
    assert getattr(bad, measure) < getattr(good, measure) - 0.2
    assert reason in bad.reasons
    assert bad.overall < good.overall


def test_a_small_face_is_small_unless_the_original_was_larger() -> None:
    image = np.asarray(cv2.resize(astronaut(), (128, 128), interpolation=cv2.INTER_AREA), np.uint8)
    small = Face(Box(43, 18, 25, 25), np.asarray(KEYPOINTS / 4, np.float32), 0.93)
    assert "small" in assess(image, small).reasons
    assert "small" not in assess(image, small, scale=4).reasons


def test_signs_of_the_pose() -> None:
    assert assess(astronaut(), moved(2, x=10)).yaw > 10
    assert assess(astronaut(), moved(2, y=8)).pitch > 10


@pytest.mark.parametrize("box", [Box(600, 600, 10, 10), Box(-50, -50, 20, 20), Box(0, 0, 0, 0)])
def test_a_box_outside_the_image_is_no_failure(box: Box) -> None:
    """A detector may place one there."""
    assert assess(astronaut(), GOOD._replace(box=box)).overall == 0
