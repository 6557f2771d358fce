"""Draws faces into the picture in which they were found."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

import cv2
import numpy as np

from phalanx.contract.faces import BoundingBox, Landmarks
from phalanx.engines.image.decode import Pixels

BOX_COLOUR: Final = (64, 224, 96)
SEEN_COLOUR: Final = (255, 64, 64)
ESTIMATED_COLOUR: Final = (255, 200, 0)
TEXT_COLOUR: Final = (0, 0, 0)
PART: Final = 400
"""A line is one pixel thick for so many of the longer side, at least two; text and points grow with it."""

FONT: Final = cv2.FONT_HERSHEY_SIMPLEX


class Mark(NamedTuple):
    """What to draw of one face, in pixels of the picture; `text` stands on the box's upper edge."""

    box: BoundingBox
    landmarks: Landmarks | None
    text: str


def draw(pixels: Pixels, marks: Sequence[Mark], *, estimated: Collection[str] = ()) -> Pixels:
    """Return a copy of an RGB picture, uint8 `[height, width, 3]`, with boxes, landmarks and texts.

    Landmarks that are `estimated`, by name, are rings rather than dots. The font has ASCII only; other letters come out
    as question marks.
    """
    canvas = np.ascontiguousarray(pixels).copy()
    thick = max(2, round(max(canvas.shape[:2]) / PART))
    for mark in marks:
        box = mark.box
        corner = _pixel(box.x, box.y)
        cv2.rectangle(canvas, corner, _pixel(box.x + box.width, box.y + box.height), BOX_COLOUR, thick, cv2.LINE_AA)
        if mark.landmarks is not None:
            for name in Landmarks.__struct_fields__:
                ring = name in estimated
                colour = ESTIMATED_COLOUR if ring else SEEN_COLOUR
                filled = max(1, thick // 2) if ring else cv2.FILLED
                cv2.circle(canvas, _pixel(*getattr(mark.landmarks, name)), thick + 1, colour, filled, cv2.LINE_AA)
        if mark.text:
            _write(canvas, mark.text.encode("ascii", "replace").decode(), corner, thick)
    return canvas


def _write(canvas: Pixels, text: str, corner: tuple[int, int], thick: int) -> None:
    """Write on a filled strip above a corner, or below it where there is no room above; kept within the picture."""
    scale = 0.25 * thick
    (width, height), drop = cv2.getTextSize(text, FONT, scale, max(1, thick // 2))
    deep = height + drop + thick
    left = max(0, min(corner[0], canvas.shape[1] - width))
    top = corner[1] - deep if corner[1] >= deep else max(0, corner[1])
    cv2.rectangle(canvas, (left, top), (left + width, top + deep), BOX_COLOUR, cv2.FILLED)
    cv2.putText(
        canvas, text, (left, top + height + thick // 2), FONT, scale, TEXT_COLOUR, max(1, thick // 2), cv2.LINE_AA
    )


def _pixel(x: float, y: float) -> tuple[int, int]:
    """Return the pixel that holds a point; its coordinates are continuous, pixel 0 being from 0 to 1."""
    limit = 2**20  # OpenCV cannot draw to what does not fit its fixed-point numbers
    return int(np.clip(np.floor(x), -limit, limit)), int(np.clip(np.floor(y), -limit, limit))
