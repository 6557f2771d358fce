"""Photos to send: one with a face, as JPEG, as often as is wanted, no two files alike."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from pictures import astronaut, saved

FACE = (slice(49, 199), slice(149, 299))
"""Rows and columns of the astronaut's head: 150 × 150 pixels."""


def photo() -> bytes:
    """Return the astronaut, 512 × 512, as a JPEG of quality 90: 63 kB."""
    return saved(astronaut(), "JPEG", quality=90)


def crop() -> bytes:
    """Return the head alone, 150 × 150, as a JPEG."""
    return saved(astronaut()[FACE], "JPEG", quality=90)


def copies(jpeg: bytes, count: int, first: int = 0) -> list[bytes]:
    """Return files of the same picture that differ in a comment, so that none is known from before."""
    numbers = (b"%012d" % number for number in range(first, first + count))
    return [jpeg[:2] + b"\xff\xfe" + struct.pack(">H", 14) + number + jpeg[2:] for number in numbers]
