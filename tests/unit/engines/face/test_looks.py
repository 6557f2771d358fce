"""What two looks at a place make of it, by their scores and sizes: networks that say what they are told to."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from phalanx.engines.face.blazeface import Candidates
from phalanx.engines.face.detector import Lane, Mode, Range, prepare
from phalanx.engines.face.framing import Square

PICTURE = np.full((400, 400, 3), 128, np.uint8)


class Told:
    """A network that sees one face of a part of its square, in its middle, with a score."""

    def __init__(self, score: float, part: float) -> None:
        self.score, self.part = score, part

    def find(self, square: Square, min_score: float) -> Candidates:
        count = int(self.score >= min_score)
        low, high = 0.5 - self.part / 2, 0.5 + self.part / 2
        places = np.array([(0.4, 0.4), (0.6, 0.4), (0.5, 0.5), (0.5, 0.6), (0.3, 0.4), (0.7, 0.4)], np.float32)
        return Candidates(
            np.array([(low, low, high, high)] * count, np.float32).reshape(-1, 4),
            np.array([places] * count, np.float32).reshape(-1, 6, 2), np.array([self.score] * count, np.float32),
        )  # fmt: skip


def found(full: float, short: float, *, part: float = 0.5, mode: Mode = "full", min_score: float = 0.5) -> list[Any]:
    """Faces where full range sees one of a fifth of the picture, and short range, nearer, one of `part` of its square."""
    lane = Lane(cast("Range", Told(full, 0.2)), cast("Range", Told(short, part)))
    return lane.detect(prepare(PICTURE, mode=mode, min_score=min_score))


@pytest.mark.parametrize(
    ("full", "short", "is_face"),
    [(0.9, 0.9, True), (0.69, 0.67, True), (0.45, 0.92, True), (0.71, 0.0, True), (0.66, 0.0, False), (0.52, 0.77, False),
     (0.6, 0.7, False), (0.39, 0.97, False)],
)  # fmt: skip
def test_two_looks_that_agree_need_not_be_sure_alone(full: float, short: float, is_face: bool) -> None:
    faces = found(full, short)
    assert len(faces) == is_face
    assert all(face.score == pytest.approx(max(full, short)) for face in faces)


@pytest.mark.parametrize("part", [0.15, 0.2, 1.1])
def test_what_is_much_smaller_or_larger_in_the_second_look_is_another_thing(part: float) -> None:
    """The first look's box stays, and its score alone counts."""
    (face,) = found(0.75, 0.95, part=part)
    assert face.score == pytest.approx(0.75)
    assert face.box.width == pytest.approx(80)
    assert found(0.65, 0.95, part=part) == []


@pytest.mark.parametrize("mode", ["full", "auto"])
def test_who_wants_surer_faces_gets_those_of_the_others_that_are_so(mode: Mode) -> None:
    """The same ones, at the same places."""
    usual = found(0.8, 0.9, mode=mode)
    assert len(usual) == 1
    for least in (0.6, 0.75, 0.85, 0.89):
        (face,) = found(0.8, 0.9, mode=mode, min_score=least)
        assert face.box == usual[0].box
        assert np.array_equal(face.keypoints, usual[0].keypoints)
    assert found(0.8, 0.9, mode=mode, min_score=0.91) == []
