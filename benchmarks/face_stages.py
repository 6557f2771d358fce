"""Where the time of detecting a face goes: each stage alone and in its turn, as one thread does them, in process.

Prints milliseconds of this thread's processor time, the least and the median of the runs: unlike time on the clock, neither
counts what others on the machine take, though a shared cache and a shared core make both longer. What HTTP, the cache of
results, metering and the hand-over between threads add is the rest of what `bench_faces` measures.

    .venv/bin/python benchmarks/face_stages.py [--runs 300] [--precision f32]
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from rich.table import Table

from measuring.model import models_dir
from measuring.photos import photo
from measuring.report import console
from phalanx.engines.backends.images import open_image_backend
from phalanx.engines.choice import EngineChoice
from phalanx.engines.face.blazeface import FULL_RANGE, SHORT_RANGE
from phalanx.engines.face.detector import MIN_SCORE, SECOND_LOOK, THRESHOLD, Lane, Range, prepare, roll_of
from phalanx.engines.face.framing import cut_square
from phalanx.engines.image.decode import decode
from phalanx.engines.image.header import read_header
from phalanx.models.store import ModelStore
from phalanx.services.faces.shapes import describe

T = TypeVar("T")
MAX_PIXELS, MAX_SIDE = 10**8, 1024
LEAST = 20
"""Runs before any is counted."""


class Clock:
    """Processor time of this thread by stage."""

    def __init__(self) -> None:
        self.spent: dict[str, list[float]] = {}

    def time(self, stage: str, work: Callable[[], T]) -> T:
        """Do work and note what it took, in ms."""
        began = time.thread_time()
        result = work()
        self.spent.setdefault(stage, []).append((time.thread_time() - began) * 1e3)
        return result


def main() -> int:
    """Run the stages and print their table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--precision", choices=("auto", "f32", "bf16"), default="auto")
    arguments = parser.parse_args()
    store = ModelStore(models_dir())
    full, short = (store.active(f"blazeface-{name}-range").path("model.tflite") for name in ("full", "short"))
    precision = EngineChoice(precision=arguments.precision).first_precision()
    full_range = open_image_backend(full, precision=precision, threads=1)
    short_range = open_image_backend(short, precision=precision, threads=1)
    lane = Lane(Range(full_range, FULL_RANGE), Range(short_range, SHORT_RANGE))
    clock, data = Clock(), photo()
    for run in range(LEAST + arguments.runs):
        if run == LEAST:
            clock.spent.clear()
        _detect(clock, lane, data)
    made = Table("stage", "least, ms", "median, ms", title=f"{precision}, {len(data) / 1e3:.0f} kB of JPEG")
    for stage, spent in clock.spent.items():
        made.add_row(stage, f"{min(spent):.3f}", f"{np.median(spent):.3f}")
    console().print(made)
    return 0


def _detect(clock: Clock, lane: Lane, data: bytes) -> None:
    """All that is done for one image; the parts of a stage are done once more, alone."""
    clock.time("digest", lambda: hashlib.sha256(data).digest())
    header = clock.time("header", lambda: read_header(data, max_pixels=MAX_PIXELS))
    image = clock.time("decode", lambda: decode(data, max_pixels=MAX_PIXELS, max_side=MAX_SIDE, header=header))
    looks = clock.time("square of 192", lambda: prepare(image.pixels))
    clock.time("full range and its finds", lambda: lane.full.find(looks.first, THRESHOLD))
    pixels = np.zeros((1, FULL_RANGE.size, FULL_RANGE.size, 3), np.float32)
    clock.time("  of it full range's network", lambda: lane.full.backend.infer(pixels))
    (face,) = lane.detect(looks)
    centre = (face.box.x + face.box.width / 2, face.box.y + face.box.height / 2)
    side = SECOND_LOOK * max(face.box.width, face.box.height)
    square = clock.time(
        "square of the second look", lambda: cut_square(image.pixels, centre, side, roll_of(face), SHORT_RANGE.size)
    )
    clock.time("short range and its finds", lambda: lane.short.find(square, MIN_SCORE))
    near = np.zeros((1, SHORT_RANGE.size, SHORT_RANGE.size, 3), np.float32)
    clock.time("  of it short range's network", lambda: lane.short.backend.infer(near))
    clock.time("both looks, together", lambda: lane.detect(looks))
    clock.time("quality and shape of the answer", lambda: describe(image.pixels, face, image.scale))


if __name__ == "__main__":
    sys.exit(main())
