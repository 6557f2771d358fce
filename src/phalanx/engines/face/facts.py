"""What a detector says of one face, and in which order its landmarks come."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

Keypoints = npt.NDArray[np.float32]
"""Float32 `[6, 2]`, x then y in pixels of the image, in the order of the names below."""

LEFT_EYE: Final = 0
RIGHT_EYE: Final = 1
NOSE: Final = 2
MOUTH: Final = 3
"""The centre of the mouth."""
LEFT_EAR: Final = 4
"""The tragion, the notch before the ear canal."""
RIGHT_EAR: Final = 5


MOUTH_CORNERS: Final = ("left_mouth", "right_mouth")
"""As the API names them."""


class Box(NamedTuple):
    """A rectangle in pixels of the image: its left top corner and its size. It may reach beyond the image."""

    x: float
    y: float
    width: float
    height: float


class Face(NamedTuple):
    """One face.

    Left and right are as seen in the image: the left eye is the one nearer to the left border of an upright
    face, which is the person's right. Coordinates are continuous: a pixel's centre lies half a pixel from its
    corner, so (0, 0) is the image's corner. `score` is the detector's, 0 to 1. `mouth_corners`, `[2, 2]` from left to right,
    are there where the detector sees them.
    """

    box: Box
    keypoints: Keypoints
    score: float
    mouth_corners: Keypoints | None = None
