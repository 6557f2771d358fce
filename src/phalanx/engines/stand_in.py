"""What stand-ins are made of: vectors that follow from a digest of what was sent, and a backend that computes nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from phalanx.contract.vector import Vector
from phalanx.engines.backends.graphs import Port

SIMULATED: Final = "simulated"
"""The version, and the arithmetic, of every stand-in."""


def digest_vector(content: bytes, dimensions: int) -> Vector:
    """Return a unit vector, float32 `[dimensions]`, that depends on the content alone: the same on every machine.

    SHAKE-256 fills it with numbers between -1 and 1.
    """
    drawn = hashlib.shake_256(content).digest(4 * dimensions)
    values = np.frombuffer(drawn, dtype="<u4").astype(np.float64) / 2**31 - 1
    return (values / np.linalg.norm(values)).astype(np.float32)


class StandInBackend:
    """Has the facts of a backend, text or image, and nothing to compute with."""

    name = SIMULATED
    device = "none"
    precision = "f32"
    threads = 0
    pooled = False
    input = Port("none", (None, 3, None, None))
    outputs: Sequence[Port] = ()

    def __init__(self, dimensions: int = 0) -> None:
        self.dimensions = dimensions

    def infer(self, *inputs: Any) -> Any:
        """Raise: a stand-in has no network."""
        raise NotImplementedError("a stand-in has no network")
