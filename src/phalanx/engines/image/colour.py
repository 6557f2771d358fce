"""Colour: pixels of another colour space, such as a phone's Display P3, become sRGB.

Of ICC profiles those are followed that are made of a matrix and curves, or of a curve for grey (ICC.1:2022, §8.3, annex F): what
cameras, phones and screens write. Those of tables, such as of CMYK, are not, and broken ones are as good as none.
"""

from __future__ import annotations

import functools
import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import cv2
import numpy as np
import numpy.typing as npt

from phalanx.engines.image.header import Header

MAX_PROFILE_BYTES = 2**20
"""Of a profile, unpacked: such as are followed have one to twenty thousand."""

MAX_TAGS = 100
SAME = 2
"""Levels by which no colour may be off to be as good as sRGB already: profiles of sRGB differ so far in their rounding."""

BAND_PIXELS = 2**16

WHITE = np.array([0.9642, 1.0, 0.8249])
"""XYZ of the illuminant D50, to which all profiles refer (ICC.1:2022, §7.2.16)."""
WHITE_TOLERANCE = 0.04

SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
"""XYZ, in rows, of sRGB's red, green and blue, in columns, under D50 (International Color Consortium, sRGB2014)."""

FROM_XYZ = np.linalg.inv(SRGB * (WHITE / SRGB.sum(axis=1))[:, None])
"""Rounded as they are, the colours are not white together; so white stays white."""

Floats = npt.NDArray[np.float64]


class Conversion(NamedTuple):
    """How pixels become sRGB: `linear` is uint16 `[1, 256, 3]`, light by level; `matrix` turns it into sRGB's.

    Of grey `matrix` is None.
    """

    linear: npt.NDArray[np.uint16]
    matrix: Floats | None

    def apply(self, pixels: Any) -> None:
        """Turn RGB uint8 `[h, w, 3]` into sRGB, in its place. What sRGB cannot show becomes the nearest by channel."""
        for rows in bands(pixels):
            light: Any = cv2.LUT(pixels[rows], self.linear)
            if self.matrix is not None:
                light = cv2.transform(light, self.matrix)
            pixels[rows] = cv2.LUT(light, _levels())


def bands(pixels: Any) -> Iterator[slice]:
    """Yield rows of an image `[h, w, …]`, as many at a time as the processor's cache holds: an eighth of the time of all at once."""
    rows = max(1, BAND_PIXELS // pixels.shape[1])
    return (slice(top, top + rows) for top in range(0, len(pixels), rows))


def to_srgb(data: bytes, header: Header) -> Conversion | None:
    """Return how the pixels of an image become sRGB; None where it has no profile that is followed, or one of sRGB."""
    profile = _profile_of(data, header)
    # A profile of another kind than the pixels says nothing of them.
    space = {1: b"GRAY", 3: b"RGB "}.get(header.channels)
    if profile is None or space is None or profile[16:24] != space + b"XYZ " or profile[36:40] != b"acsp":
        return None
    try:
        found = _grey(profile) if space == b"GRAY" else _colour(profile)
    except (struct.error, ValueError):
        return None
    steps = np.arange(0, 256, 15).astype(np.uint8)
    levels = (steps,) if found.matrix is None else np.meshgrid(steps, steps, steps)
    colours = np.stack([levels[channel % len(levels)].ravel() for channel in range(3)], -1)[None]
    converted = colours.copy()
    found.apply(converted)
    return None if cv2.norm(converted, colours, cv2.NORM_INF) <= SAME else found


def _profile_of(data: bytes, header: Header) -> bytes | None:
    if not 0 < sum(end - start for start, end in header.profile) <= MAX_PROFILE_BYTES:
        return None
    profile = b"".join(data[start:end] for start, end in header.profile)
    if header.format != "png":
        return profile
    # After a name and the method, which is always zlib's.
    _, _, packed = profile.partition(b"\0")
    unpack = zlib.decompressobj()
    try:
        profile = unpack.decompress(packed[1:], MAX_PROFILE_BYTES)
    except zlib.error:
        return None
    return profile if unpack.eof else None


def _grey(profile: bytes) -> Conversion:
    light = _curve(_tag(profile, b"kTRC"))
    return Conversion(_linear([light, light, light]), None)


def _colour(profile: bytes) -> Conversion:
    """Return the conversion of a profile of three colours. Raises `ValueError` where they do not make white."""
    colours = np.array([_xyz(_tag(profile, name)) for name in (b"rXYZ", b"gXYZ", b"bXYZ")]).T
    white = colours.sum(axis=1)
    if np.abs(white - WHITE).max() > WHITE_TOLERANCE:
        raise ValueError("its red, green and blue are not white together")
    matrix = FROM_XYZ @ (colours * (WHITE / white)[:, None])
    return Conversion(_linear([_curve(_tag(profile, name)) for name in (b"rTRC", b"gTRC", b"bTRC")]), matrix)


def _tag(profile: bytes, name: bytes) -> bytes:
    """Return a tag's content. Raises `ValueError` where there is none."""
    (count,) = struct.unpack_from(">I", profile, 128)
    for number in range(min(count, MAX_TAGS)):
        found, start, size = struct.unpack_from(">4sII", profile, 132 + 12 * number)
        if found == name:
            return profile[start : start + size]
    raise ValueError(f"it has no {name.decode()}")


def _fixed(tag: bytes, place: int, count: int) -> Floats:
    """Return numbers of 16 bits before and 16 behind the point."""
    return np.array(struct.unpack_from(f">{count}i", tag, place)) / 65536


def _xyz(tag: bytes) -> Floats:
    if tag[:4] != b"XYZ ":
        raise ValueError("a colour is not XYZ")
    return _fixed(tag, 8, 3)


PARAMETERS = {0: 1, 1: 3, 2: 4, 3: 5, 4: 7}
"""How many each kind of parametric curve has (ICC.1:2022, §10.18)."""


def _curve(tag: bytes) -> Floats:
    """Return the light, 0 to 1, of each of the 256 levels. Raises `ValueError` for what is no curve."""
    level = np.arange(256) / 255
    if tag[:4] == b"curv":
        (count,) = struct.unpack_from(">I", tag, 8)
        if 12 + 2 * count > len(tag):
            raise ValueError("its curve is cut off")
        sampled = np.frombuffer(tag, ">u2", count, 12)
        if count == 0:
            return level
        if count == 1:
            return cast("Floats", level ** (sampled[0] / 256))
        return cast("Floats", np.interp(level * (count - 1), np.arange(count), sampled / 65535))
    if tag[:4] != b"para":
        raise ValueError("a curve is neither sampled nor parametric")
    (kind,) = struct.unpack_from(">H", tag, 8)
    if kind not in PARAMETERS:
        raise ValueError("its curve is of no known kind")
    numbers = np.array([1, 1, 0, 0, 0, 0, 0], np.float64)
    numbers[: PARAMETERS[kind]] = _fixed(tag, 12, PARAMETERS[kind])
    g, a, b, c, d, e, f = numbers
    with np.errstate(all="ignore"):
        if kind in (1, 2):
            d = -b / a
        if kind == 2:
            c, e, f = 0, c, c
        light = np.where(level >= d, np.maximum(a * level + b, 0) ** g + e, c * level + f)
    if not np.isfinite([d, *light]).all():
        raise ValueError("its curve is not finite")
    return cast("Floats", np.clip(light, 0, 1))


def _linear(curves: list[Floats]) -> npt.NDArray[np.uint16]:
    return np.rint(np.stack(curves, -1)[None] * 65535).astype(np.uint16)


@functools.cache
def _levels() -> npt.NDArray[np.uint8]:
    """Return sRGB's level of each of 65,536 of light, uint8 `[1, 65536]` (IEC 61966-2-1)."""
    light = np.arange(65536) / 65535
    level = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    levels: npt.NDArray[np.uint8] = np.rint(level * 255).astype(np.uint8)[None]
    return levels
