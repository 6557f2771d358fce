"""How good a picture of a face is: named measures, what is wrong with it, and one figure over all.

The measures follow the components of ISO/IEC 29794-5 and OFIQ, its reference implementation, as far as they can be had
from pixels and six landmarks; the figures are not OFIQ's. Each is 0 (useless) to 1 (as good as it gets). Sharpness and exposure are those of any image
(`engines.image.quality`), of the face's box alone.
"""

from __future__ import annotations

import math
from typing import Final, Literal, NamedTuple

import numpy as np

from phalanx.engines.face.detector import roll_of
from phalanx.engines.face.facts import LEFT_EYE, MOUTH, NOSE, RIGHT_EYE, Box, Face
from phalanx.engines.face.framing import Image
from phalanx.engines.image.quality import BLURRED, BRIGHT, DARK, measure_quality

Reason = Literal["blurred", "dark", "bright", "turned", "nodding", "small", "cut_off", "uncertain"]

SIDE: Final = 112
"""Pixels to which a face is brought before it is measured, so that figures do not depend on its size."""

FRONTAL_NOSE: Final = 0.44
"""Where the nose of a face seen from the front lies between eyes (0) and mouth (1): (72.5 - 47) / (105.1 - 47) in the
mean of BlazeFace's landmarks on dlib's chips."""

GOOD_EYES_PX: Final = 56.0
"""Pixels between the eyes from which no embedder has to enlarge the face: those of a 150-pixel chip."""

MAX_TURN_DEG: Final = 45.0

WEIGHTS: Final = {
    "sharpness": 0.25, "exposure": 0.10, "pose": 0.20, "size": 0.20, "completeness": 0.15, "detection": 0.10,
}  # fmt: skip
"""Exponents of the weighted geometric mean: a face that is useless in one respect is useless."""


class FaceQuality(NamedTuple):
    """The measures, 0 to 1; the pose in degrees; which of them are wanting; and the figure over all.

    `yaw` is positive when the nose points to the right border, `pitch` when it points down, `roll` when the head leans
    clockwise, each -90 to 90, roll -180 to 180. Yaw and pitch are estimates from where the nose lies between eyes and
    mouth.
    """

    overall: float
    sharpness: float
    exposure: float
    pose: float
    size: float
    completeness: float
    detection: float
    yaw: float
    pitch: float
    roll: float
    reasons: tuple[Reason, ...]


def assess(image: Image, face: Face, *, scale: float = 1.0) -> FaceQuality:
    """Judge one face of an upright RGB image, uint8 `[height, width, 3]`.

    `scale` is how many pixels of the original one of `image` stands for. The overall figure is the product of the
    measures, each to the power of its weight in `WEIGHTS`.
    """
    seen = measure_quality(_crop(image, face.box), measured_side=SIDE)
    yaw, pitch = _turns(face)
    measures = {
        "sharpness": seen.sharpness.score,
        "exposure": seen.exposure.score,
        "pose": (math.cos(math.radians(yaw)) * math.cos(math.radians(pitch))) ** 2,
        "size": min(1.0, _eye_distance(face) * scale / GOOD_EYES_PX),
        "completeness": completeness(image, face.box),
        "detection": face.score,
    }
    overall = math.prod(max(0.0, measures[name]) ** weight for name, weight in WEIGHTS.items())
    wanting: dict[Reason, bool] = {
        "blurred": measures["sharpness"] < BLURRED,
        "dark": seen.exposure.value < DARK,
        "bright": seen.exposure.value > BRIGHT,
        "turned": abs(yaw) > MAX_TURN_DEG,
        "nodding": abs(pitch) > MAX_TURN_DEG,
        "small": measures["size"] < 0.4,
        "cut_off": measures["completeness"] < 0.9,
        "uncertain": face.score < 0.6,
    }
    reasons = tuple(name for name, is_wanting in wanting.items() if is_wanting)
    return FaceQuality(
        overall=overall, **measures, yaw=yaw, pitch=pitch, roll=math.degrees(roll_of(face)), reasons=reasons
    )


def completeness(image: Image, box: Box) -> float:
    """Return the part of a face's box that lies in the image."""
    height, width = image.shape[:2]
    across = max(0.0, min(width, box.x + box.width) - max(0.0, box.x))
    down = max(0.0, min(height, box.y + box.height) - max(0.0, box.y))
    return float(min(1.0, across * down / max(box.width * box.height, 1e-6)))


def _crop(image: Image, box: Box) -> Image:
    """Return what of a face's box lies in the image, at least a pixel."""
    height, width = image.shape[:2]
    left, top = min(width - 1, max(0, round(box.x))), min(height - 1, max(0, round(box.y)))
    right, bottom = max(left + 1, round(box.x + box.width)), max(top + 1, round(box.y + box.height))
    return image[top:bottom, left:right]


def _eye_distance(face: Face) -> float:
    return float(np.linalg.norm(face.keypoints[RIGHT_EYE] - face.keypoints[LEFT_EYE]))


def _turns(face: Face) -> tuple[float, float]:
    """Return yaw and pitch in degrees, -90 to 90, from the nose's place in the frame of the eyes and the mouth."""
    points = face.keypoints.astype(np.float64)
    eyes = (points[LEFT_EYE] + points[RIGHT_EYE]) / 2
    angle = roll_of(face)
    along, below = np.array([math.cos(angle), math.sin(angle)]), np.array([-math.sin(angle), math.cos(angle)])
    nose, mouth = points[NOSE] - eyes, points[MOUTH] - eyes
    apart, deep = max(_eye_distance(face), 1e-6), max(float(mouth @ below), 1e-6)
    aside, down = float(nose @ along) / apart, float(nose @ below) / deep - FRONTAL_NOSE
    return max(-90.0, min(90.0, 90 * aside)), max(-90.0, min(90.0, 90 * down))
