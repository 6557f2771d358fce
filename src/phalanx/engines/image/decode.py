"""Decoding: any image that is read becomes upright RGB of 8 bits."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import cv2
import numpy as np
import numpy.typing as npt

from phalanx.engines.image.allocation import give_back_large_blocks
from phalanx.engines.image.colour import Conversion, bands, to_srgb
from phalanx.engines.image.header import Header, broken, png_pixels, read_header

Pixels = npt.NDArray[np.uint8]
"""RGB uint8 `[height, width, 3]`, upright."""

# Images are worked on two at a time by their caller's threads; threads of OpenCV's own would come on top of those.
cv2.setNumThreads(1)
# What is wrong with a file is told to who sent it; the log of a worker is not for callers to write to.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
give_back_large_blocks()

OPAQUE = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
REDUCED = {
    1: OPAQUE,
    2: cv2.IMREAD_REDUCED_COLOR_2 | cv2.IMREAD_IGNORE_ORIENTATION,
    4: cv2.IMREAD_REDUCED_COLOR_4 | cv2.IMREAD_IGNORE_ORIENTATION,
    8: cv2.IMREAD_REDUCED_COLOR_8 | cv2.IMREAD_IGNORE_ORIENTATION,
}
"""OpenCV's flags by the divisor. The reduced ones give BGR."""


class Decoded(NamedTuple):
    """An image's pixels with what its header says.

    `scale` is how many pixels of the upright original one of `pixels` stands for, across and down: a point (x, y)
    here is (x · scale[0], y · scale[1]) there, to within one pixel of here where a side is no multiple of the divisor. Both
    are 1 unless the image was decoded at reduced size.
    """

    pixels: Pixels
    header: Header
    scale: tuple[float, float]


def decode(
    data: bytes, *, max_pixels: int, max_side: int | None = None, header: Header | None = None, as_srgb: bool = False
) -> Decoded:
    """Decode an image and put it upright.

    With `max_side` a JPEG larger than that is decoded at 1/2, 1/4 or 1/8, the smallest whose longer side still has
    `max_side` pixels: the cosine transform is evaluated at fewer points, for a fraction of the time.

    Alpha is laid on white, 16 bits are cut to 8, grey and palettes become RGB, CMYK is converted without a colour
    profile. With `as_srgb` colours of another space are converted by the profile that comes with them. `header` is that of the same data where it was read already. Raises what `read_header` raises, and `UnreadableInput` for pixels that cannot be decoded.
    """
    header = header or read_header(data, max_pixels=max_pixels)
    divisor = reduction(header, max_side) if max_side else 1
    conversion = to_srgb(data, header) if as_srgb else None
    flags = cv2.IMREAD_UNCHANGED if header.has_alpha else REDUCED[divisor]
    read = png_pixels(data) if header.format == "png" else data
    try:
        raw: Any = cv2.imdecode(np.frombuffer(read, np.uint8), flags)
    except cv2.error:
        raise broken("its pixels cannot be decoded") from None
    if raw is None:
        raise broken("its pixels cannot be decoded")
    if raw.shape[:2] != (-(-header.height // divisor), -(-header.width // divisor)):
        raise broken("its size is not the one that its header gives")
    pixels: Any = raw
    if header.has_alpha:
        pixels = _on_white(raw, header, conversion)
    else:
        if divisor > 1:
            pixels = cv2.cvtColor(raw, cv2.COLOR_BGR2RGB)
        if conversion:
            conversion.apply(pixels)
    pixels = upright(pixels, header.orientation)
    width, height = header.upright_size
    return Decoded(pixels, header, (width / pixels.shape[1], height / pixels.shape[0]))


def reduction(header: Header, max_side: int) -> int:
    """Return 1, 2, 4 or 8: the largest divisor that leaves the longer side at least `max_side` pixels. JPEG only."""
    if header.format != "jpeg":
        return 1
    longer = max(header.width, header.height)
    return next((divisor for divisor in (8, 4, 2) if longer / divisor >= max_side), 1)


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undo an EXIF orientation, 1 to 8: mirrored ones are 2, 4, 5 and 7. The result is contiguous."""
    turned: Any = cv2.transpose(pixels) if orientation >= 5 else pixels
    flip = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation)
    return cast("Pixels", turned if flip is None else cv2.flip(turned, flip))


def _on_white(raw: Any, header: Header, conversion: Conversion | None) -> Pixels:
    """Return RGB of what OpenCV decodes unchanged: grey, BGR or BGRA of 8 or 16 bits, alpha not premultiplied."""
    if header.format == "bmp" and raw.shape[2:] == (4,) and not raw[:, :, 3].any():
        # Many that write BMP leave zeros there, and mean nothing by it.
        raw = raw[:, :, :3]
    out = np.empty((*raw.shape[:2], 3), np.uint8)
    for rows in bands(raw):
        out[rows] = _band_on_white(raw[rows], header, conversion)
    return out


def _band_on_white(raw: Any, header: Header, conversion: Conversion | None) -> Any:
    alpha: Any = None
    if raw.ndim == 2 and header.transparent_grey is not None:
        # Of grey it forgets which level is transparent.
        white = 2 ** max(8, header.bits) - 1
        alpha = np.where(raw == header.transparent_grey * white // (2**header.bits - 1), 0, 255).astype(np.uint8)
    if raw.dtype == np.uint16:
        raw = (raw >> 8).astype(np.uint8)
    if raw.ndim == 2:
        rgb: Any = cv2.cvtColor(raw, cv2.COLOR_GRAY2RGB)
    else:
        rgb = cv2.cvtColor(raw, cv2.COLOR_BGR2RGB if raw.shape[2] == 3 else cv2.COLOR_BGRA2RGB)
    if conversion:
        conversion.apply(rgb)
    if raw.ndim == 3 and raw.shape[2] == 4:
        alpha = np.ascontiguousarray(raw[:, :, 3])
    if alpha is None or alpha.min() == 255:
        return rgb
    # 255 − (255 − colour) · alpha, so that what is transparent is exactly white and what is opaque unchanged.
    shade: Any = cv2.multiply(cv2.bitwise_not(rgb), cv2.cvtColor(alpha, cv2.COLOR_GRAY2RGB), scale=1 / 255)
    return cv2.bitwise_not(shade)
