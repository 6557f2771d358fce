"""Pictures on their side: by how many quarter turns their faces stand upright, and the way back."""

from __future__ import annotations

import math

import numpy as np
import pytest

from phalanx.engines.face.facts import Box, Face
from phalanx.engines.face.turning import quarter_turns, turned_back


@pytest.mark.parametrize(
    ("degrees", "turns"),
    [([], 0), ([0], 0), ([40, -40], 0), ([90], 1), ([60, 120, 0], 1), ([-90], 3), ([-70, -120], 3), ([180, -170], 2),
     ([90, 0], 0), ([90, -90, 180], 0)],
)  # fmt: skip
def test_more_than_half_of_the_faces_say_how_a_picture_lies(degrees: list[float], turns: int) -> None:
    assert quarter_turns([math.radians(lean) for lean in degrees]) == turns


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_face_is_where_it_was_before_the_picture_was_turned(turns: int) -> None:
    """Six lit pixels are its landmarks: where they are after the turn leads back to where they were."""
    width, height = 60, 40
    places = np.array([(10, 8), (20, 9), (15, 14), (15, 19), (5, 10), (25, 12)])
    picture = np.zeros((height, width), np.uint8)
    picture[places[:, 1], places[:, 0]] = np.arange(1, 7)
    turned = np.rot90(picture, turns)
    seen = np.array([np.argwhere(turned == number)[0][::-1] for number in range(1, 7)], np.float32) + 0.5
    (left, top), (right, bottom) = seen.min(axis=0).tolist(), seen.max(axis=0).tolist()
    face = turned_back(Face(Box(left, top, right - left, bottom - top), seen, 0.9, seen[:2]), turns, width, height)
    assert face.keypoints.tolist() == (places + 0.5).tolist()
    assert face.keypoints.dtype == np.float32
    assert face.mouth_corners is not None
    assert face.mouth_corners.tolist() == (places[:2] + 0.5).tolist()
    assert face.box == Box(5.5, 8.5, 20, 11)
    assert face.score == 0.9
