"""Geometric operations on RGB uint8 `[h, w, 3]`. Sizes are width first, as callers say them."""

from __future__ import annotations

import math
from typing import Any, cast

import cv2

from phalanx.contract.images import MAX_SIDE, Crop, Resize, Rotate
from phalanx.engines.image.decode import Pixels
from phalanx.errors import InvalidRequest

Size = tuple[int, int]
WHITE = (255, 255, 255)

LONGEST_TURNED = 32_766
"""Pixels of a side that OpenCV's warp can count: one less than a 16-bit number holds."""


def scaled_size(source: Size, wanted: Resize) -> Size:
    """Return the size to which an image of the size `source` is scaled, before `fill` cuts what stands out.

    Raises `InvalidRequest` when neither side is given, or one would be over `MAX_SIDE`.
    """
    across = wanted.width / source[0] if wanted.width else None
    down = wanted.height / source[1] if wanted.height else None
    if across is None and down is None:
        raise InvalidRequest("resize needs width, height or both", param="operations")
    factors = [factor for factor in (across, down) if factor is not None]
    factor = max(factors) if wanted.mode == "fill" else min(factors)
    width, height = max(1, round(source[0] * factor)), max(1, round(source[1] * factor))
    if wanted.mode == "exact":
        width, height = wanted.width or width, wanted.height or height
    if max(width, height) > MAX_SIDE:
        raise InvalidRequest(
            f"resize would give {width} × {height} pixels; a side may have {MAX_SIDE}", param="operations"
        )
    return width, height


def resize(pixels: Pixels, wanted: Resize, *, source: Size | None = None) -> Pixels:
    """Scale an image, by area where it shrinks and bicubic where it grows.

    `source` is the size that the result is reckoned from, where `pixels` were decoded at a reduced one.
    """
    width, height = scaled_size(source or (pixels.shape[1], pixels.shape[0]), wanted)
    out: Any = pixels
    # One side may do this and the other that: bicubic would leave out pixels of the one that shrinks.
    shrunk = min(width, pixels.shape[1]), min(height, pixels.shape[0])
    for size, how in ((shrunk, cv2.INTER_AREA), ((width, height), cv2.INTER_CUBIC)):
        if size != (out.shape[1], out.shape[0]):
            out = cv2.resize(out, size, interpolation=how)
    if wanted.mode == "fill":
        kept_width, kept_height = min(wanted.width or width, width), min(wanted.height or height, height)
        left, top = (width - kept_width) // 2, (height - kept_height) // 2
        out = out[top : top + kept_height, left : left + kept_width]
    return cast("Pixels", out)


def crop(pixels: Pixels, wanted: Crop) -> Pixels:
    """Return a view of a rectangle. Raises `InvalidRequest` when it reaches beyond the image."""
    height, width = pixels.shape[:2]
    if wanted.x + wanted.width > width or wanted.y + wanted.height > height:
        raise InvalidRequest(
            f"crop reaches to ({wanted.x + wanted.width}, {wanted.y + wanted.height}); the image has {width} × {height} pixels",
            param="operations",
        )
    return pixels[wanted.y : wanted.y + wanted.height, wanted.x : wanted.x + wanted.width]


QUARTERS = {1: cv2.ROTATE_90_CLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_COUNTERCLOCKWISE}


def rotated_size(source: Size, wanted: Rotate) -> Size:
    """Return the size of the upright rectangle that holds all of an image of the size `source`, turned."""
    width, height = source
    if wanted.angle % 90 == 0:
        return (height, width) if wanted.angle // 90 % 2 else (width, height)
    sin, cos = (abs(part(math.radians(wanted.angle))) for part in (math.sin, math.cos))
    return max(1, round(height * sin + width * cos)), max(1, round(height * cos + width * sin))


def rotate(pixels: Pixels, wanted: Rotate) -> Pixels:
    """Turn an image clockwise: by quarters exactly, otherwise bilinear into the upright rectangle that holds it all.

    Raises `InvalidRequest` for a side beyond `LONGEST_TURNED`, but in quarters.
    """
    if wanted.angle % 90 == 0:
        quarters = int(wanted.angle // 90) % 4
        return cast("Pixels", cv2.rotate(pixels, QUARTERS[quarters])) if quarters else pixels
    height, width = pixels.shape[:2]
    new_width, new_height = rotated_size((width, height), wanted)
    longest = max(width, height, new_width, new_height)
    if longest > LONGEST_TURNED:
        raise InvalidRequest(
            f"rotate by other than quarters takes and gives sides of {LONGEST_TURNED} pixels, not {longest}",
            param="operations",
        )
    # OpenCV turns counter-clockwise, about a point in coordinates whose zero is the centre of the first pixel.
    matrix: Any = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), -wanted.angle, 1.0)
    matrix[0, 2] += (new_width - width) / 2
    matrix[1, 2] += (new_height - height) / 2
    size = (new_width, new_height)
    return cast("Pixels", cv2.warpAffine(pixels, matrix, size, flags=cv2.INTER_LINEAR, borderValue=WHITE))
