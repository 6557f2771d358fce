"""Phalanx in process, in a process of its own: see `own_process.py`."""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from measuring.cores import pinned
from measuring.lines import LineProcess

PROCESS = Path(__file__).with_name("own_process.py")


@contextmanager
def open_own(
    precision: str = "auto", *, engine: str = "openvino", cores: Sequence[int] | None = None
) -> Iterator[tuple[LineProcess, dict[str, Any]]]:
    """Start a process with the model loaded; yields it and what runs the model: engine, precision, cores."""
    with pinned(cores):
        process = LineProcess([sys.executable, PROCESS])
    with process:
        yield process, process.ask("load", precision=precision, engine=engine)


def unpacked(wire: dict[str, Any]) -> NDArray[np.float32]:
    """Return the array that came as JSON."""
    return np.frombuffer(base64.b64decode(wire["float32"]), dtype="<f4").reshape(wire["shape"])


def cosines(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the cosine of each pair of rows, reckoned in float64."""
    a, b = left.astype(np.float64), right.astype(np.float64)
    found: NDArray[np.float64] = (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))
    return found
