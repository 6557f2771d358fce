"""Brings a face to the place, size and turn in which a network learned to see faces.

A similarity (scale, turn, shift) is fitted between a detector's landmarks and those of a template, in closed form, and
the picture is warped by it, low-passed first where that shrinks it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from phalanx.engines.face.facts import LEFT_EYE, MOUTH, NOSE, RIGHT_EYE, Keypoints
from phalanx.errors import InvalidRequest

Image = npt.NDArray[np.uint8]
Points = npt.NDArray[np.float64]
Matrix = npt.NDArray[np.float64]

TemplateName = Literal["dlib", "arcface"]

MARGIN: Final = 2
"""Pixels around the part of a picture that a chip is made of, for what bilinear sampling reads beyond it."""


@dataclass(frozen=True)
class Template:
    """Where a network wants which landmarks.

    `places` are `(x, y)` in a chip of `side` pixels, pixel centres on whole numbers, of the keypoints `landmarks`
    (indices as in `facts`); `weights` say how much each counts in the fit, the errors of which are least in the
    picture or in the chip. `alignment` names all of this with what is done by it: vectors of different alignments are not
    to be compared without measuring a threshold anew, so a change here or of the warp changes that.
    """

    side: int
    landmarks: tuple[int, ...]
    places: tuple[tuple[float, float], ...]
    weights: tuple[float, ...]
    least_in: Literal["picture", "chip"]
    alignment: str

    def scaled(self, side: int) -> Template:
        """Return the template for chips of another size."""
        if side == self.side:
            return self
        ratio = side / self.side
        # What scales is the continuous coordinate, half a pixel from the number of the pixel.
        places = tuple(((x + 0.5) * ratio - 0.5, (y + 0.5) * ratio - 0.5) for x, y in self.places)
        return replace(self, side=side, places=places)


TEMPLATES: dict[TemplateName, Template] = {
    # Fitted so that chips from BlazeFace's landmarks come nearest to those that dlib cuts by its own: BlazeFace has the
    # eyes 7 % farther apart than dlib's template. The mouth steadies it; the nose moves with the pose and is left out.
    "dlib": Template(
        side=150,
        landmarks=(LEFT_EYE, RIGHT_EYE, MOUTH),
        places=((45.3, 47.0), (101.7, 47.0), (73.5, 105.1)),
        weights=(4.0, 4.0, 1.0),
        # As `get_face_chip_details` has it.
        least_in="picture",
        alignment="blazeface-6/1",
    ),
    # InsightFace's five points (`face_align.py`), the two corners of the mouth replaced by the point between them. The fit is
    # from the picture to the chip, there and in OpenCV's `FaceRecognizerSF`: a face that is turned comes out smaller.
    "arcface": Template(
        side=112,
        landmarks=(LEFT_EYE, RIGHT_EYE, NOSE, MOUTH),
        places=((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (56.1396, 92.2848)),
        weights=(1.0, 1.0, 1.0, 1.0),
        least_in="chip",
        alignment="blazeface-6/2",
    ),
}
"""By the name that a model's catalogue entry gives."""


class Chip(NamedTuple):
    """An aligned face.

    `image` is uint8 `[side, side, 3]`, channels as in the picture; what lies outside that is black. `matrix`, float64
    `[2, 3]`, takes a pixel of the chip to one of the picture, centres on whole numbers. `scale` is chip pixels a
    picture pixel: above 1 the face was enlarged. `residual` is how far the landmarks lie from the template, root of the
    weighted mean square in chip pixels: what no similarity can mend, such as a face seen from the side.
    """

    image: Image
    matrix: Matrix
    scale: float
    residual: float


def align(image: Image, keypoints: Keypoints, template: Template) -> Chip:
    """Cut one face out of a picture, uint8 `[height, width, 3]`, by its landmarks, `[6, 2]` as in `facts.Face`.

    Raises `InvalidRequest` when the landmarks coincide or are not finite.
    """
    seen = np.asarray(keypoints, dtype=np.float64)[list(template.landmarks)] - 0.5
    wanted, weights = np.array(template.places), np.array(template.weights)
    matrix = fit_similarity(wanted, seen, weights)
    if template.least_in == "chip":
        matrix = np.asarray(cv2.invertAffineTransform(fit_similarity(seen, wanted, weights)), np.float64)
    scale = 1.0 / math.hypot(matrix[0, 0], matrix[1, 0])
    errors = wanted @ matrix[:, :2].T + matrix[:, 2] - seen
    residual = scale * math.sqrt(float(weights @ (errors**2).sum(axis=1) / weights.sum()))
    return Chip(warp(image, matrix, template.side), matrix, scale, residual)


def fit_similarity(source: Points, target: Points, weights: npt.NDArray[np.float64] | None = None) -> Matrix:
    """Return the similarity `[2, 3]` that takes `source` `[n, 2]` nearest to `target`, in weighted least squares.

    Umeyama, "Least-squares estimation of transformation parameters between two point patterns", 1991; in the plane and
    without reflection the solution needs no singular values. Raises `InvalidRequest` when there is none.
    """
    if not (np.isfinite(source).all() and np.isfinite(target).all()):
        raise InvalidRequest("the landmarks do not say where the face is: they are not finite numbers")
    shares = np.full(len(source), 1.0 / len(source)) if weights is None else weights / weights.sum()
    from_, to = shares @ source, shares @ target
    s, t = source - from_, target - to
    spread = float(shares @ (s**2).sum(axis=1))
    cos = float(shares @ (s * t).sum(axis=1))
    sin = float(shares @ (s[:, 0] * t[:, 1] - s[:, 1] * t[:, 0]))
    size = math.hypot(cos, sin)
    # Landmarks nearer to each other than a hundredth of a pixel show no face, and a warp by them would overflow.
    if not spread > 0 or size < 0.01 * math.sqrt(spread):
        raise InvalidRequest("the landmarks do not say where the face is: they coincide")
    turn = np.array([[cos, -sin], [sin, cos]]) / spread
    return np.column_stack([turn, to - turn @ from_])


def warp(image: Image, matrix: Matrix, side: int) -> Image:
    """Sample a square of `side` pixels from a picture; `matrix` takes its pixels to those of the picture.

    Bilinear, from the picture halved as often as leaves at least a picture pixel for every two of the chip: dlib's
    networks were trained on chips made so. Only the part that the chip covers is touched.
    """
    part, (left, top) = _covered(image, matrix, side)
    if not part.size:
        return np.zeros((side, side, 3), dtype=np.uint8)
    matrix = matrix.copy()
    matrix[:, 2] -= (left, top)
    while math.hypot(matrix[0, 0], matrix[1, 0]) > 2 and min(part.shape[:2]) > 1:
        # The pyramid's pixel n lies at the picture's pixel 2 n.
        part = np.asarray(cv2.pyrDown(part), dtype=np.uint8)
        matrix /= 2
    warped = cv2.warpAffine(
        part, matrix, (side, side), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_CONSTANT
    )
    return np.asarray(warped, dtype=np.uint8)


def _covered(image: Image, matrix: Matrix, side: int) -> tuple[Image, tuple[int, int]]:
    """Return the part of a picture that a chip is sampled from, and where its left top corner is."""
    ends = np.array([[0, 0, 1], [side, 0, 1], [0, side, 1], [side, side, 1]]) @ matrix.T
    margin = MARGIN * max(1.0, math.hypot(matrix[0, 0], matrix[1, 0])) + 1
    height, width = image.shape[:2]
    left, top = (max(0, math.floor(low)) for low in ends.min(axis=0) - margin)
    right, bottom = (max(0, math.ceil(high)) for high in ends.max(axis=0) + margin)
    return image[top : min(bottom, height), left : min(right, width)], (left, top)
