"""Stand-ins for the face models: one face in the middle of every picture, vectors by digest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from phalanx.contract.vector import Vector
from phalanx.engines.backends.graphs import ImageBackend
from phalanx.engines.face.detector import FaceDetector, Looks
from phalanx.engines.face.embedder import FaceEmbedder, PreparedFace
from phalanx.engines.face.facts import Box, Face
from phalanx.engines.face.spec import FaceSpec
from phalanx.engines.stand_in import SIMULATED, StandInBackend, digest_vector

SCORE: Final = 0.9
PLACES: Final = np.array([[0.3, 0.35], [0.7, 0.35], [0.5, 0.55], [0.5, 0.75], [0.05, 0.4], [0.95, 0.4]])
"""Where a face looked at from the front has its landmarks, in parts of its box, in the order of `facts`."""


class StandInLane:
    """Looks at one picture."""

    def __init__(self) -> None:
        self.backend: ImageBackend = StandInBackend()

    def detect(self, looks: Looks) -> list[Face]:
        """Return its one face."""
        return [_face(looks)] if looks.min_score <= SCORE else []


class StandInDetector(FaceDetector):
    """Sees a face of half the shorter side in the middle of every picture, unless a higher score is asked for."""

    def __init__(self) -> None:
        super().__init__([StandInLane()])


class StandInEmbedder(FaceEmbedder):
    """Answers as a network of face vectors does, with vectors of unit length that mean nothing.

    `spec` has the network's own facts. Equal pictures have equal vectors, others are as far apart as chance has it.
    """

    def __init__(self, spec: FaceSpec) -> None:
        super().__init__(replace(spec, version=SIMULATED, sha256="", arithmetic=SIMULATED), StandInBackend())

    def run(self, batch: Sequence[PreparedFace]) -> list[Vector]:
        """Return each face's vector, float32 `[d]`."""
        return [digest_vector(item.pixels.tobytes(), self.spec.dimensions) for item in batch]


def _face(looks: Looks) -> Face:
    height, width = looks.image.shape[:2]
    side = max(min(height, width) / 2, 1.0)
    box = Box((width - side) / 2, (height - side) / 2, side, side)
    return Face(box, (PLACES * side + (box.x, box.y)).astype(np.float32), SCORE)
