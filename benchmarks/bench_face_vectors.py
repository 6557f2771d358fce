"""One aligned face to its vector, in process: dlib's network, and ArcFace r100 with weights drawn at random.

The second is the architecture alone, whose time does not depend on its weights. Times are of `prepare` and `run` on all
threads, in the precision that the worker would choose; the best of the rounds, since other users of a machine only add.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from measuring.arcface import DIMENSIONS, SIDE, write_arcface
from measuring.report import Row, main, not_measured, say
from phalanx.engines.face.embedder import FaceEmbedder
from phalanx.engines.face.golden import faces
from phalanx.engines.face.load import load_face_embedder
from phalanx.engines.face.spec import FaceSpec
from phalanx.errors import Unavailable
from phalanx.models.store import ModelStore

MODELS = Path(__file__).parents[1] / ".build" / "models"
DLIB = "dlib-resnet-v1"
ROUNDS, RUNS = 5, 12
DLIB_BAR_MS, ARCFACE_BAR_MS = 5.0, 80.0


def measure() -> list[Row]:
    """Return the rows."""
    with tempfile.TemporaryDirectory(prefix="phalanx-bench-") as folder:
        return [*_dlib(), _arcface(Path(folder) / "model.onnx")]


def _dlib() -> list[Row]:
    try:
        version = ModelStore(MODELS).active(DLIB)
    except Unavailable as error:
        return not_measured([(f"{DLIB}: one face", "ms", "lower", DLIB_BAR_MS)], str(error))
    spec = FaceSpec(
        name=DLIB, version=version.version, sha256=version.sha256, dimensions=128, input_size=150, template="dlib",
        metric="euclidean", threshold=0.6, meaning="",
    )  # fmt: skip
    return [_timed(load_face_embedder(spec, version.path("model.onnx")), DLIB_BAR_MS, "")]


def _arcface(graph: Path) -> Row:
    parameters = write_arcface(graph)
    spec = FaceSpec(
        name="ArcFace r100", version="random", sha256="0" * 64, dimensions=DIMENSIONS, input_size=SIDE,
        template="arcface", metric="cosine", threshold=0.4, meaning="", offset=127.5, scale=127.5,
    )  # fmt: skip
    return _timed(load_face_embedder(spec, graph), ARCFACE_BAR_MS, f"{parameters / 1e6:.1f} million random weights")


def _timed(model: FaceEmbedder, bar: float, note: str) -> Row:
    chip = faces(model.spec.input_size)[0]
    best = float("inf")
    for _ in range(ROUNDS):
        times = []
        for _ in range(RUNS):
            start = time.perf_counter()
            model.run([model.prepare(chip)])
            times.append(time.perf_counter() - start)
        best = min(best, sorted(times)[RUNS // 2] * 1e3)
    say(f"{model.spec.name}: {best:.2f} ms")
    what = f"{model.backend.name} {model.backend.precision}, {model.backend.threads} threads"
    return Row(
        claim=f"{model.spec.name}: one face", measured=best, unit="ms", better="lower", bar=bar, noise=0.2,
        note=", ".join(filter(None, (what, note))),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(measure, __doc__))
