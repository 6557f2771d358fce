"""Large pictures in parts: overlapping tiles, so that faces which are small in the whole picture are large in one of them.

Full range sees faces from a twentieth of its square on. Tiles of a third of the picture, and of a ninth, see those from a
sixtieth and from a hundred-and-eightieth, and their ranges overlap. A face that lies across the border of one tile lies
whole within the next, since tiles overlap by a quarter: by more than the largest face that only they see.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from phalanx.engines.face.blazeface import FULL_RANGE
from phalanx.engines.face.facts import Face
from phalanx.engines.face.framing import Image, Square, letterbox

LEVELS: Final = (3, 9)
"""A tile's side is the picture's longer one divided by these."""

HALVES: Final = (2,)
"""Nine tiles, whose overlap is half of each: enough for faces from a thirtieth of the picture on."""

THIRDS: Final = (3,)
"""Sixteen tiles, for faces from a sixtieth of the picture on."""

OVERLAP: Final = 0.25
"""The part of a tile that its neighbour sees too."""

SMALLEST_TILE: Final = FULL_RANGE.size // 2
"""Pixels of a tile below which there is nothing more to see: it is magnified more than twice."""


class Tile(NamedTuple):
    """A part of a picture, in its pixels; and of which sides of it the picture goes on: left, top, right, bottom."""

    left: int
    top: int
    right: int
    bottom: int
    goes_on: tuple[bool, bool, bool, bool]

    def cut(self, image: Image, size: int) -> Square:
        """Return the tile as a network of `size` pixels sees it."""
        square = letterbox(image[self.top : self.bottom, self.left : self.right], size)
        square.to_image[:, 2] += (self.left, self.top)
        return square

    def cuts(self, face: Face) -> bool:
        """Whether a face reaches beyond a side where the picture goes on: another tile sees more of it."""
        box = face.box
        beyond = (box.x < self.left, box.y < self.top, box.x + box.width > self.right, box.y + box.height > self.bottom)
        return any(inner and out for inner, out in zip(self.goes_on, beyond, strict=True))


def tiles(width: int, height: int, levels: Sequence[int] = LEVELS) -> Iterator[Tile]:
    """Yield the tiles of a picture, the large ones first; none where the whole picture shows as much."""
    for level in levels:
        side = math.ceil(max(width, height) / level)
        if side < SMALLEST_TILE:
            return
        for top, bottom in _spans(height, side):
            for left, right in _spans(width, side):
                yield Tile(left, top, right, bottom, (left > 0, top > 0, right < width, bottom < height))


def count_tiles(width: int, height: int) -> int:
    """Return how many tiles a picture has."""
    return sum(1 for _ in tiles(width, height))


def _spans(length: int, side: int) -> list[tuple[int, int]]:
    """Cover a length by pieces of `side` that overlap by `OVERLAP` or more; one piece where it is no longer."""
    if length <= side:
        return [(0, length)]
    pieces = math.ceil((length - side) / (side * (1 - OVERLAP))) + 1
    starts = (round(place * (length - side) / (pieces - 1)) for place in range(pieces))
    return [(start, start + side) for start in starts]
