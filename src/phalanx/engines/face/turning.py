"""Pictures that lie on their side or stand on their head, as of a camera held otherwise whose file does not say so.

Full range finds upright faces best, and its landmarks of those that lean by more than a right angle are the least sure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from phalanx.engines.face.facts import Box, Face


def quarter_turns(rolls: Sequence[float]) -> int:
    """Return by how many quarter turns anticlockwise, 0 to 3, more than half of the faces come to stand upright.

    `rolls` are how far they lean clockwise, in radians; 0 where they do not agree.
    """
    turns = [round(2 * roll / math.pi) % 4 for roll in rolls]
    return next((turn for turn in (1, 2, 3) if 2 * turns.count(turn) > len(turns)), 0)


def turned_back(face: Face, turns: int, width: int, height: int) -> Face:
    """Return where a face lies in an image of `width` by `height` pixels; it was found in the image after `turns` quarter turns."""
    turn = np.array(((1, 0), (0, 1), (-1, 0), (0, -1)), dtype=np.float32)[[turns, (turns + 1) % 4]].T
    shift = np.array((width * (turns in (1, 2)), height * (turns in (2, 3))), dtype=np.float32)
    box = face.box
    x, y = (turn @ (box.x + box.width / 2, box.y + box.height / 2) + shift).tolist()
    wide, high = (box.height, box.width) if turns % 2 else (box.width, box.height)
    corners = None if face.mouth_corners is None else face.mouth_corners @ turn.T + shift
    return Face(Box(x - wide / 2, y - high / 2, wide, high), face.keypoints @ turn.T + shift, face.score, corners)
