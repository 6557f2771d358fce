"""A face detector of the user's own: YuNet, which sees faces and all five of their landmarks at one look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from phalanx.engines.backends.graphs import ImageBackend, Precision
from phalanx.engines.backends.images import open_image_backend
from phalanx.engines.choice import EngineChoice
from phalanx.engines.face.detector import MIN_SCORE, THRESHOLD, FaceDetector, Looks, Mode
from phalanx.engines.face.detector_golden import portrait, stored_golden
from phalanx.engines.face.facts import LEFT_EYE, MOUTH, NOSE, RIGHT_EYE, Box, Face
from phalanx.engines.face.framing import Image, letterbox
from phalanx.engines.face.yunet import SIDE, STRIDES, decode, output_shapes, six_points
from phalanx.engines.threads import usable_cpus
from phalanx.errors import Unavailable

MAX_LANES: Final = 8

MAX_DEVIATION: Final = 0.25
"""How far eyes, nose and mouth of the portrait may be from where BlazeFace has them, in widths of its box. Left and right
mixed up, or the colours, are farther off, or no face at all."""


@dataclass(frozen=True)
class YuNetLane:
    """The network, once. One thread uses it. `side` is that of its square."""

    backend: ImageBackend
    side: int

    def detect(self, looks: Looks) -> list[Face]:
        """Return the faces of one image from left to right."""
        # BGR, levels of 0 to 255.
        pixels = np.ascontiguousarray(looks.first.pixels[:, :, ::-1].transpose(2, 0, 1)[None], dtype=np.float32)
        finds = decode(self.backend.infer(pixels), self.side, max(looks.min_score, MIN_SCORE))
        faces = []
        for box, points, score in zip(finds.boxes, finds.points, finds.scores, strict=True):
            if not (np.isfinite(box).all() and np.isfinite(points).all()):
                continue
            corners = np.stack((box[:2], box[:2] + box[2:])) / self.side
            (left, top), (right, bottom) = looks.first.points(corners).tolist()
            seen = looks.first.points(points / self.side)
            placed = Box(left, top, right - left, bottom - top)
            keypoints = six_points(np.array(placed, dtype=np.float32), seen)
            faces.append(Face(placed, keypoints, float(score), seen[3:].copy()))
        return sorted(faces, key=lambda face: face.box.x + face.box.width / 2)


class YuNetDetector(FaceDetector):
    """The engine: images in, faces out, behind the same calls as BlazeFace."""

    def __init__(self, lanes: Sequence[YuNetLane]) -> None:
        super().__init__(lanes)
        self._side = lanes[0].side

    @property
    def modes(self) -> tuple[Mode, ...]:
        """It has one way of looking."""
        return ("auto",)

    @property
    def estimated(self) -> tuple[str, ...]:
        """It sees all landmarks."""
        return ()

    def prepare(self, image: Image, *, mode: Mode = "auto", min_score: float = THRESHOLD) -> Looks:
        """Make an upright RGB image, uint8 `[height, width, 3]`, ready. Any thread. There is one `mode`, auto."""
        return Looks(image, letterbox(image, self._side), mode, min_score)


def open_yunet(graph: Path, choice: EngineChoice | None = None) -> YuNetDetector:
    """Load the network, as often as images are to be computed at once, and check it on a known face.

    On a GPU it is loaded once. It computes in float32 unless bfloat16 is asked for: there are no weights here to
    measure that by. Raises `Unavailable` when the file is no YuNet, finds a face in black or does not find a known one.
    """
    choice = choice or EngineChoice()
    precision: Precision = "bf16" if choice.precision == "bf16" else "f32"
    lanes: list[YuNetLane] = []
    wanted = min(choice.threads or usable_cpus(), MAX_LANES)
    while len(lanes) < wanted:
        backend = open_image_backend(graph, engine=choice.engine, device=choice.device, precision=precision, threads=1)
        side = _side(graph, backend)
        if None in backend.input.shape and backend.name == "openvino":
            # OpenVINO fuses more where sizes are fixed.
            backend = open_image_backend(graph, precision=precision, threads=1, shape=(1, 3, side, side))
        lanes.append(YuNetLane(backend, side))
        if backend.device != "cpu":
            break
    detector = YuNetDetector(lanes)
    try:
        _check(graph, detector)
    except Exception:
        detector.close()
        raise
    return detector


def _side(graph: Path, backend: ImageBackend) -> int:
    """Return the side of the network's square. Raises `Unavailable` unless the graph takes one and gives what YuNet does."""
    taken = backend.input.shape
    fits = len(taken) == 4 and taken[0] in (None, 1) and taken[1] in (None, 3) and taken[2] == taken[3]
    side = (taken[2] or SIDE) if fits else 0
    wanted = output_shapes(side)
    given = {port.name: port.shape for port in backend.outputs}
    if not side or side % max(STRIDES) or set(given) != set(wanted):
        raise Unavailable(
            f"{graph.name} takes {taken} and gives {', '.join(sorted(given))}; YuNet takes (1, 3, side, side), of a side "
            f"that {max(STRIDES)} divides, and gives {', '.join(sorted(wanted))}"
        )
    for name, shape in wanted.items():
        sizes = given[name]
        if len(sizes) != 3 or any(has not in (None, want) for has, want in zip(sizes, shape, strict=True)):
            raise Unavailable(f"{graph.name} gives {name} as {sizes}; YuNet gives {shape}")
    return side


def _check(graph: Path, detector: YuNetDetector) -> None:
    """Raise `Unavailable` unless it finds the portrait's face where that is, and none in black. Warms every lane up."""
    picture = portrait()
    black = detector.prepare(np.zeros_like(picture))
    if any(detector.run([black] * (2 * detector.lanes))):
        raise Unavailable(f"{graph.name} finds faces in black: it is no YuNet that was trained")
    looks = stored_golden().looks[0]
    (found,) = detector.run([detector.prepare(picture)])
    if len(found) != 1:
        raise Unavailable(f"{graph.name} finds {len(found)} faces in a portrait: it is no YuNet that was trained")
    landmarks, expected = [LEFT_EYE, RIGHT_EYE, NOSE, MOUTH], looks.face()
    far = float(np.abs(found[0].keypoints - expected.keypoints)[landmarks].max()) / expected.box.width
    if not far <= MAX_DEVIATION:
        raise Unavailable(
            f"{graph.name} has a landmark of a portrait {far:.2f} of the face's width from where it is; at most "
            f"{MAX_DEVIATION} is allowed"
        )
