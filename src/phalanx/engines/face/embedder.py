"""A network of face vectors: prepares aligned faces, runs batches of them, compares what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from phalanx.contract.vector import Vector
from phalanx.engines.backends.graphs import ImageBackend
from phalanx.engines.face.align import Chip, Image, align
from phalanx.engines.face.facts import Keypoints
from phalanx.engines.face.spec import FaceSpec
from phalanx.errors import InvalidRequest

BATCH: Final = 8
"""Faces computed at once. More gain nothing on a processor, and each number of faces has kernels of its own."""


@dataclass(frozen=True, slots=True, eq=False)
class PreparedFace:
    """A face ready for the engine: float32 `[3, side, side]`, levels as the network wants them."""

    pixels: npt.NDArray[np.float32]

    @property
    def length(self) -> int:
        """Faces cost alike: 1."""
        return 1


class FaceEmbedder:
    """The engine of `ports.Engine`: `align` and `prepare` on any thread, `run` on one."""

    def __init__(self, spec: FaceSpec, backend: ImageBackend) -> None:
        self.spec = spec
        self.backend = backend
        self._template = spec.geometry

    def align(self, image: Image, keypoints: Keypoints) -> Chip:
        """Cut a face out of a picture, RGB uint8 `[height, width, 3]`, as this network wants it.

        `keypoints` is `[6, 2]` as in `facts.Face`. Raises `InvalidRequest` when they do not say where the face is.
        """
        return align(image, keypoints, self._template)

    def prepare(self, chip: Image) -> PreparedFace:
        """Turn an aligned face, RGB uint8 `[side, side, 3]`, into what the network takes.

        Raises `InvalidRequest` when it has another size or type.
        """
        side = self.spec.input_size
        if chip.shape != (side, side, 3) or chip.dtype != np.uint8:
            raise InvalidRequest(
                f"an aligned face for {self.spec.name} is RGB of 8 bits, {side} x {side} pixels; "
                f"this has the shape {'x'.join(map(str, chip.shape))} and the type {chip.dtype}"
            )
        ordered = chip if self.spec.channels == "rgb" else chip[:, :, ::-1]
        pixels = np.ascontiguousarray(ordered.transpose(2, 0, 1), dtype=np.float32)
        if self.spec.offset:
            pixels -= np.float32(self.spec.offset)
        if self.spec.scale != 1:
            pixels /= np.float32(self.spec.scale)
        return PreparedFace(pixels)

    def run(self, batch: Sequence[PreparedFace]) -> list[Vector]:
        """Return each face's vector, float32 `[d]`, in order, as the network gives it: not of unit length."""
        vectors: list[Vector] = []
        output = self.backend.outputs[0].name
        for start in range(0, len(batch), self.largest_batch):
            pixels = np.stack([item.pixels for item in batch[start : start + self.largest_batch]])
            vectors.extend(row.copy() for row in self.backend.infer(pixels)[output])
        return vectors

    @property
    def largest_batch(self) -> int:
        """Faces that the graph takes at once: one where it was exported for a single face."""
        return self.backend.input.shape[0] or BATCH

    def compare(self, first: Vector, second: Vector) -> float:
        """Return the distance (`euclidean`) or similarity (`cosine`) of two faces by the network's own metric."""
        if self.spec.metric == "euclidean":
            return float(np.linalg.norm(first - second))
        lengths = float(np.linalg.norm(first)) * float(np.linalg.norm(second))
        return float(np.dot(first, second)) / lengths if lengths else 0.0

    def is_same(self, value: float) -> bool:
        """Whether a value of `compare` is on the side of the threshold that stands for one person."""
        return value <= self.spec.threshold if self.spec.metric == "euclidean" else value >= self.spec.threshold

    def warm(self) -> None:
        """Run every number of faces that comes up, so that no call pays for making kernels."""
        side = self.spec.input_size
        blank = self.prepare(np.zeros((side, side, 3), dtype=np.uint8))
        for count in range(1, self.largest_batch + 1):
            self.run([blank] * count)
