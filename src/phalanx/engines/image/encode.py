"""Encoding: pixels to files and tensors. Files carry pixels only, no metadata of any kind."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from phalanx.contract.images import ImageFormat, Normalize, Tensor
from phalanx.engines.image.decode import Pixels
from phalanx.errors import InvalidRequest

MAX_TENSOR_NUMBERS = 2**20
QUALITY = 90
LONGEST_SIDE = {"jpeg": 65_500, "webp": 16_383, "png": 2**20}
"""Pixels that a side may have: libjpeg's JPEG_MAX_DIMENSION, WebP's 14 bits, OpenCV's own limit."""


MAX_WEBP_PIXELS = 12_000_000
"""Encoding WebP takes 0.09 to 0.2 s a million pixels, by their content, and OpenCV has no switch for less effort. So many are
done within the five seconds that a request usually has; a JPEG of 30 million takes 0.3 s."""


def encode(pixels: Pixels, image_format: ImageFormat, *, quality: int = QUALITY) -> bytes:
    """Return RGB uint8 `[h, w, 3]` as a file of that format (BMP: as PNG). Raises `InvalidRequest` when it cannot hold them."""
    name = stored_format(image_format)
    limit = LONGEST_SIDE[name]
    if max(pixels.shape[:2]) > limit:
        raise InvalidRequest(
            f"the image has {pixels.shape[1]} × {pixels.shape[0]} pixels; a side of {name} has at most {limit}",
            param="operations",
        )
    if name == "webp" and pixels.shape[0] * pixels.shape[1] > MAX_WEBP_PIXELS:
        raise InvalidRequest(
            f"the image has {pixels.shape[1]} × {pixels.shape[0]} pixels; a webp is made of at most {MAX_WEBP_PIXELS}: "
            "resize it, or convert it to jpeg or png",
            param="operations",
        )
    options = {
        "jpeg": [cv2.IMWRITE_JPEG_QUALITY, quality],
        "webp": [cv2.IMWRITE_WEBP_QUALITY, quality],
        # The fastest level: half the time of the default one for a few per cent more bytes on photographs.
        "png": [cv2.IMWRITE_PNG_COMPRESSION, 1],
    }
    _, data = cv2.imencode(f".{name}", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options[name])
    return data.tobytes()


def stored_format(image_format: ImageFormat) -> ImageFormat:
    """Return the format in which an image is given back: BMP is read but not written."""
    return "png" if image_format == "bmp" else image_format


def to_tensor(pixels: Pixels, wanted: Normalize) -> Tensor:
    """Return `(pixel / 255 - mean) / std` as float32. Raises `InvalidRequest` for a zero `std`, numbers beyond float32, or more than 2²⁰ of them."""
    if pixels.size > MAX_TENSOR_NUMBERS:
        raise InvalidRequest(
            f"the tensor would have {pixels.size} numbers, {MAX_TENSOR_NUMBERS} are allowed; resize first",
            param="operations",
        )
    if 0.0 in wanted.std:
        raise InvalidRequest("normalize divides by std; it may not be 0", param="operations")
    with np.errstate(all="ignore"):
        scale = 1 / (255 * np.asarray(wanted.std))
        shift = np.asarray(wanted.mean) / np.asarray(wanted.std)
        numbers: Any = (pixels * scale - shift).astype("<f4")
    if not np.isfinite(numbers).all():
        raise InvalidRequest(
            "normalize would give numbers beyond float32: mean is too large, or std too small", param="operations"
        )
    if wanted.layout == "chw":
        numbers = numbers.transpose(2, 0, 1)
    return Tensor(data=numbers.tobytes(), shape=numbers.shape, dtype="float32", layout=wanted.layout)
