"""Runs a graph to judge it: its vectors, and how long a batch takes."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import openvino as ov

Floats = npt.NDArray[np.float32]
Pooling = Literal["mean", "cls"]

ROWS, LENGTH, ROUNDS = 16, 64, 12


# One for the process, never let go: see `openvino_core` of the engines' backends.
_core = functools.cache(ov.Core)


class Trial:
    """A text encoder's graph on OpenVINO, in the precision named."""

    def __init__(self, graph: Path, precision: str) -> None:
        settings = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
        self._compiled = _core().compile_model(graph, "CPU", settings)

    def units(self, texts: Sequence[Sequence[int]], pooling: Pooling) -> Floats:
        """Return the unit vectors of texts given as token ids, `[texts, d]`."""
        vectors = []
        for text in texts:
            ids = np.array([text], dtype=np.int64)
            tokens = self._compiled([ids, np.ones_like(ids)])[0][0]
            vector = tokens[0] if pooling == "cls" else tokens.mean(axis=0)
            vectors.append(vector / np.linalg.norm(vector))
        return np.stack(vectors)

    def seconds(self) -> float:
        """Return how long a batch of 16 texts of 64 tokens takes."""
        ids = np.full((ROWS, LENGTH), 5, dtype=np.int64)
        start = time.perf_counter()
        self._compiled([ids, np.ones_like(ids)])
        return time.perf_counter() - start


def speed_ratio(before: Path, after: Path) -> float:
    """Return how many times faster `after`, a graph in int8, is than `before` in f32 or bf16, whichever is faster here.

    The least of twelve times each, taken in turn so that a busy machine treats both alike.
    """
    precisions = ["f32"]
    if "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        precisions.append("bf16")
    old, new = [Trial(before, precision) for precision in precisions], Trial(after, "f32")
    times = [(min(trial.seconds() for trial in old), new.seconds()) for _ in range(ROUNDS)]
    return min(was for was, _ in times) / min(is_ for _, is_ in times)
