"""The one fact of EXIF that is used: the orientation. Nothing else is read, and so nothing else can leave.

The layout is TIFF's (Exif 2.32, §4.6): a byte order, then a directory of twelve-byte entries.
"""

from __future__ import annotations

import struct
from typing import Final

ORIENTATION: Final = 0x0112
SHORT: Final = 3
MAX_ENTRIES = 256


def orientation_of(block: bytes) -> int:
    """Return 1 to 8 (1: upright) from a TIFF block, with or without `Exif\\0\\0` before it.

    Never raises: EXIF that is broken is EXIF that is not there.
    """
    tiff = block.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return 1
    (offset,) = struct.unpack_from(order + "I", tiff, 4)
    if offset + 2 > len(tiff):
        return 1
    (count,) = struct.unpack_from(order + "H", tiff, offset)
    for place in range(offset + 2, offset + 2 + 12 * min(count, MAX_ENTRIES), 12):
        if place + 12 > len(tiff):
            break
        tag, kind, number, value = struct.unpack_from(order + "HHIH", tiff, place)
        if tag == ORIENTATION and kind == SHORT and number and 1 <= value <= 8:
            return int(value)
    return 1
