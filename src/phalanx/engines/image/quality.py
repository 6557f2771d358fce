"""How good an image is for recognising what is on it: named measures, a score of each and one overall.

| Measure | Value | Score |
|---|---|---|
| sharpness | variance v of the Laplacian of the luma | v / (v + 100) |
| exposure | mean luma m, 0 to 1 | 1 between 0.25 and 0.75, falling to 0 at 0 and 1 |
| contrast | standard deviation s of the luma, 0 to 1 | s / 0.15, at most 1 |
| size | shorter side in pixels | side / `full_side`, at most 1 |

The overall figure is their geometric mean, so that one useless measure makes the whole useless. The variance of the
Laplacian is LAPV of Pertuz, Puig and Garcia, "Analysis of focus measure operators" (2013); a variance of 100, where
the score is one half, is the threshold in common use. It depends on the scale, so larger images are first brought to a
longer side of 512.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from phalanx.contract.images import ImageQuality, Measure, QualityReason
from phalanx.engines.image.decode import Pixels

MEASURED_SIDE = 512
FULL_SIDE = 224
HALF_SHARP = 100.0
WELL_EXPOSED = 0.25
FULL_CONTRAST = 0.15

BLURRED = 0.3
DARK = 0.2
BRIGHT = 0.8
FLAT = 0.05
SMALL = 64


def measure_quality(pixels: Pixels, *, full_side: int = FULL_SIDE, measured_side: int = MEASURED_SIDE) -> ImageQuality:
    """Measure RGB uint8 `[h, w, 3]`, brought to a longer side of `measured_side` pixels where that shrinks it.

    `full_side`, in pixels, is the shorter side from which size is no fault: of a face, 112.
    """
    luma = _luma(pixels, measured_side)
    mean, deviation = (float(array[0, 0]) / 255 for array in map(np.asarray, cv2.meanStdDev(luma)))
    variance = float(np.asarray(cv2.meanStdDev(cv2.Laplacian(luma, cv2.CV_32F))[1])[0, 0]) ** 2
    side = min(pixels.shape[:2])
    sharpness = variance / (variance + HALF_SHARP)
    exposure = min(1.0, mean / WELL_EXPOSED, (1 - mean) / WELL_EXPOSED)
    contrast = min(1.0, deviation / FULL_CONTRAST)
    size = min(1.0, side / full_side)
    found: tuple[tuple[bool, QualityReason], ...] = (
        (sharpness < BLURRED, "blurred"), (mean < DARK, "too_dark"), (mean > BRIGHT, "too_bright"),
        (deviation < FLAT, "low_contrast"), (side < SMALL * full_side / FULL_SIDE, "too_small"),
    )  # fmt: skip
    return ImageQuality(
        overall=_rounded(max(0.0, sharpness * exposure * contrast * size) ** 0.25),
        sharpness=Measure(value=_rounded(variance), score=_rounded(sharpness)),
        exposure=Measure(value=_rounded(mean), score=_rounded(exposure)),
        contrast=Measure(value=_rounded(deviation), score=_rounded(contrast)),
        size=Measure(value=float(side), score=_rounded(size)),
        reasons=[reason for holds, reason in found if holds],
    )


def _luma(pixels: Pixels, longest: int) -> Any:
    """Return BT.601 luma, uint8 `[h, w]`, of a longer side of at most `longest`."""
    luma = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    height, width = luma.shape
    factor = longest / max(height, width)
    if factor >= 1:
        return luma
    # Shrunk last: one channel takes a third of the time of three.
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return cv2.resize(luma, size, interpolation=cv2.INTER_AREA)


def _rounded(value: float) -> float:
    return round(value, 4)
