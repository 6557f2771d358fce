"""From what the detector says of a face to what the answer says of it."""

from __future__ import annotations

import numpy as np

from phalanx.contract.faces import BoundingBox, FoundFace, Landmarks, QualityMeasures
from phalanx.engines.face.facts import LEFT_EYE, MOUTH, NOSE, RIGHT_EYE, Face
from phalanx.engines.face.framing import Image
from phalanx.engines.face.quality import FaceQuality, assess

HALF_MOUTH = 0.414
"""From the middle of the mouth to its corner, in distances between the eyes: (70.7299 - 41.5493) / 2 / 35.24 in
InsightFace's template of 112 pixels."""


def describe(image: Image, face: Face, scale: tuple[float, float]) -> FoundFace:
    """Describe a face of an image in pixels of the original, `scale` of which one of its pixels stands for."""
    quality = assess(image, face, scale=max(scale))
    across, down = scale
    box = face.box
    return FoundFace(
        bbox=BoundingBox(
            x=round(box.x * across, 2), y=round(box.y * down, 2),
            width=round(box.width * across, 2), height=round(box.height * down, 2),
        ),
        landmarks=_landmarks(face, scale), confidence=round(face.score, 4), roll=round(quality.roll, 2),
        quality=round(quality.overall, 4), measures=_measures(quality),
    )  # fmt: skip


def _landmarks(face: Face, scale: tuple[float, float]) -> Landmarks:
    points = face.keypoints.astype(np.float64) * scale
    # Where only its middle is known, the mouth is taken to lie along the line of the eyes.
    corner = HALF_MOUTH * (points[RIGHT_EYE] - points[LEFT_EYE])
    corners = points[MOUTH] - corner, points[MOUTH] + corner
    if face.mouth_corners is not None:
        corners = tuple(face.mouth_corners.astype(np.float64) * scale)
    five = points[LEFT_EYE], points[RIGHT_EYE], points[NOSE], *corners
    left_eye, right_eye, nose, left, right = ((round(float(x), 2), round(float(y), 2)) for x, y in five)
    return Landmarks(left_eye=left_eye, right_eye=right_eye, nose=nose, left_mouth=left, right_mouth=right)


def _measures(quality: FaceQuality) -> QualityMeasures:
    return QualityMeasures(
        sharpness=round(quality.sharpness, 4), exposure=round(quality.exposure, 4), pose=round(quality.pose, 4),
        size=round(quality.size, 4), completeness=round(quality.completeness, 4),
        detection=round(quality.detection, 4), yaw=round(quality.yaw, 1), pitch=round(quality.pitch, 1),
        reasons=list(quality.reasons),
    )  # fmt: skip
