"""Loads the face detector: two networks for each lane and one for images that come alone, checked and warmed up."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from phalanx.engines.backends import Precision
from phalanx.engines.backends.graphs import ImageBackend
from phalanx.engines.backends.images import open_image_backend
from phalanx.engines.choice import EngineChoice
from phalanx.engines.face.blazeface import FULL_RANGE, SHORT_RANGE, Layout
from phalanx.engines.face.detector import FaceDetector, Lane, Range, prepare
from phalanx.engines.face.detector_golden import check_detector, require_golden
from phalanx.engines.threads import usable_cpus
from phalanx.errors import Unavailable

MAX_LANES = 8

MAX_THREADS_ALONE = 2
"""Threads of full range for an image that comes alone: two take 0.6 of the time of one, and where another process keeps a core
busy 1.1. More were not measured. Short range gains nothing."""

log = logging.getLogger(__name__)


def open_detector(
    full: Path, short: Path, choice: EngineChoice | None = None, *, weights: tuple[str, str] | None = None
) -> FaceDetector:
    """Load both networks, TFLite files, as often as images are to be computed at once, once a thread, and check them.

    They run on the processor whatever the device, since only OpenVINO reads them. `precision` auto is bfloat16 where
    the processor has it and the golden check holds, else float32. `weights` are the files' SHA-256, by which the check
    knows what they should give. Raises `Unavailable` when a file is no such network, finds a face in black or does not
    find a known one.
    """
    choice = choice or EngineChoice()
    wanted = choice.first_precision()
    detector = _open(full, short, choice, wanted)
    result = check_detector(detector, weights)
    if not result.holds and choice.precision != "bf16" and wanted == "bf16":
        detector.close()
        log.warning("%s: in bf16 a face is off by %.3f of its width; using f32", full.name, result.deviation)
        detector = _open(full, short, choice, "f32")
        result = check_detector(detector, weights)
    try:
        require_golden(result)
    except Unavailable:
        detector.close()
        raise
    return detector


def _open(full: Path, short: Path, choice: EngineChoice, precision: Precision) -> FaceDetector:
    lanes = min(choice.threads or usable_cpus(), MAX_LANES)

    def load(graph: Path, layout: Layout, threads: int = 1) -> Range:
        backend = open_image_backend(graph, device="cpu", precision=precision, threads=threads)
        _require(graph.name, backend, layout)
        return Range(backend, layout)

    each = [Lane(load(full, FULL_RANGE), load(short, SHORT_RANGE)) for _ in range(lanes)]
    # The first lane rests while an image is looked at alone.
    alone = Lane(load(full, FULL_RANGE, min(lanes, MAX_THREADS_ALONE)), each[0].short) if lanes > 1 else None
    detector = FaceDetector(each, alone)
    black = np.zeros((SHORT_RANGE.size, SHORT_RANGE.size, 3), dtype=np.uint8)
    # Auto looks with both networks where it sees nothing; twice as many images as lanes warm every one.
    if any(detector.run([prepare(black)] * (2 * lanes)) + detector.run([prepare(black)])):
        detector.close()
        raise Unavailable(f"{full.name} or {short.name} finds faces in black; run: phalanx models verify")
    return detector


def _require(name: str, backend: ImageBackend, layout: Layout) -> None:
    """Raise `Unavailable` unless the graph takes the layout's square and gives a box and a score for each anchor."""
    count, taken = len(layout.anchors()), (1, layout.size, layout.size, 3)
    given = sorted(port.shape for port in backend.outputs)
    if backend.input.shape != taken or given != [(1, count, 1), (1, count, 16)]:
        raise Unavailable(
            f"{name} takes {backend.input.shape} and gives {given}; BlazeFace takes {taken} and gives "
            f"{[(1, count, 1), (1, count, 16)]}"
        )
