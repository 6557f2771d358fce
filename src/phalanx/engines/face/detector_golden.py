"""The golden check of the face detector: it takes no traffic before it has found a known face where that is.

Right is what these weights gave in float32 on the portrait beside this, as it is and in half its light. That was cut from
scikit-image's `astronaut`: Eileen Collins, photographed by NASA and in the public domain. Other weights need not agree
to the pixel, but must see the face.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import cv2
import msgspec
import numpy as np

from phalanx.engines.face.align import Image
from phalanx.engines.face.detector import FaceDetector, Looks, Mode, prepare
from phalanx.engines.face.facts import Box, Face
from phalanx.errors import Unavailable

FOLDER = Path(__file__).parent / "goldens"
PORTRAIT = FOLDER / "portrait.jpg"
EXPECTED = FOLDER / "portrait.json"

MAX_DEVIATION = {"f32": 0.01, "bf16": 0.02}
"""How far corners and landmarks may be from where they should be, in widths of the face, by the backend's precision.
bfloat16 has moved them by 0.006 at most; aligned by such landmarks, dlib's vectors move by less than 0.05."""
MAX_DEVIATION_OF_OTHERS = 0.15
"""The same for weights that the stored faces were not made with: the two networks differ by 0.03."""


class Look(msgspec.Struct, frozen=True):
    """One look at the portrait, at a part of its light, with the face that it should show, in pixels of the portrait."""

    mode: Mode
    light: float
    box: tuple[float, float, float, float]
    keypoints: list[tuple[float, float]]
    score: float

    def face(self) -> Face:
        """Return the face as the detector tells it."""
        return Face(Box(*self.box), np.array(self.keypoints, dtype=np.float32), self.score)


class Golden(msgspec.Struct, frozen=True):
    """The looks, and the SHA-256 of the two networks that gave them: full range, short range."""

    source: str
    weights: tuple[str, str]
    looks: list[Look]


class DetectorResult(NamedTuple):
    """The largest deviation in widths of the face, infinite where it was not found or not alone, and what was allowed."""

    deviation: float
    allowed: float

    @property
    def holds(self) -> bool:
        """Whether every look came near enough; a NaN did not."""
        return self.deviation <= self.allowed


@cache
def stored_golden() -> Golden:
    """Return the stored looks. Raises `Unavailable` when this installation lacks them."""
    try:
        return msgspec.json.decode(EXPECTED.read_bytes(), type=Golden)
    except (OSError, ValueError) as error:
        raise Unavailable(f"{EXPECTED.name} of this installation of Phalanx cannot be read: {error}") from error


def portrait() -> Image:
    """Return the portrait, RGB uint8 `[192, 192, 3]`. Raises `Unavailable` when this installation lacks it."""
    picture = cv2.imread(str(PORTRAIT), cv2.IMREAD_COLOR_RGB)
    if picture is None:
        raise Unavailable(f"{PORTRAIT.name} is missing from this installation of Phalanx")
    return np.asarray(picture, dtype=np.uint8)


def golden_looks() -> list[Looks]:
    """Return what the detector is asked, prepared."""
    picture = portrait()
    return [
        prepare(np.ascontiguousarray((picture * look.light).astype(np.uint8)), mode=look.mode)
        for look in stored_golden().looks
    ]


def check_detector(detector: FaceDetector, weights: tuple[str, str] | None = None) -> DetectorResult:
    """Look at the portrait and compare. `weights` are the SHA-256 of full and of short range, if they are known."""
    golden = stored_golden()
    exact = weights == golden.weights
    allowed = MAX_DEVIATION[detector.backend.precision] if exact else MAX_DEVIATION_OF_OTHERS
    looks = golden_looks()
    # What comes alone may be looked at by another network than what comes with others.
    found = [*detector.run(looks), *(detector.run([look])[0] for look in looks)]
    return DetectorResult(
        max(deviation(faces, look.face()) for faces, look in zip(found, golden.looks * 2, strict=True)), allowed
    )


def deviation(found: list[Face], expected: Face) -> float:
    """Return how far a face's corners and landmarks are from the expected ones, in widths of that face.

    Infinite unless exactly one face was found, all of whose numbers are finite.
    """
    if len(found) != 1:
        return float("inf")
    far = np.abs(_points(found[0]) - _points(expected)).max() / expected.box.width
    return float(far) if np.isfinite(far) else float("inf")


def require_golden(result: DetectorResult) -> None:
    """Raise `Unavailable` unless the check held."""
    if not result.holds:
        said = f"{result.deviation:.3f} of its width off" if np.isfinite(result.deviation) else "not found"
        raise Unavailable(
            f"the golden check of the face detector failed: a known face was {said}; at most {result.allowed} is allowed; "
            "run: phalanx models verify"
        )


def _points(face: Face) -> np.ndarray:
    x, y, width, height = face.box
    return np.vstack([[(x, y), (x + width, y + height)], face.keypoints])
