"""From a raw vector to what the caller asked for: cut, of unit length, quantised, encoded. Pure functions."""

from __future__ import annotations

import base64
from typing import Literal, overload

import numpy as np
import numpy.typing as npt

from phalanx.contract.text import Output
from phalanx.contract.vector import Vector

TINY = 1e-12
"""The least norm that is divided by, as in the reference: a zero vector stays zero."""

Finished = npt.NDArray[np.float32] | npt.NDArray[np.int8] | npt.NDArray[np.uint8] | str


def unit(vector: Vector) -> Vector:
    """Return a float32 vector, or each row of a matrix, scaled to length 1."""
    norm = np.sqrt(np.einsum("...i,...i->...", vector, vector, dtype=np.float32))
    scaled: Vector = vector / np.maximum(norm, np.float32(TINY))[..., None]
    return scaled


@overload
def finish(raw: Vector, *, normalize: bool, dimensions: int | None, output: Literal["float"]) -> Vector: ...


@overload
def finish(raw: Vector, *, normalize: bool, dimensions: int | None, output: Output) -> Finished: ...


def finish(raw: Vector, *, normalize: bool, dimensions: int | None, output: Output) -> Finished:
    """Turn a raw pooled vector, float32 `[d]`, into the answer.

    `dimensions` keeps that many components from the front (Matryoshka), before the length is made 1. The outputs:

    - `float`: float32 `[d]`. `base64`: the same as little-endian bytes in base64.
    - `int8`: `round(127 x)`, `uint8`: that plus 128, of the unit vector, whatever `normalize` says: a scale that
      depended on the vector would have to be sent along.
    - `ubinary`: a bit a component, 1 where it is above 0, the first in the highest bit, `[ceil(d / 8)]` uint8.
      `binary`: that minus 128, int8. Both as sentence-transformers' `quantize_embeddings` and Cohere's API give them.
    """
    vector = raw if dimensions is None else raw[:dimensions]
    if output == "ubinary":
        return np.packbits(vector > 0)
    if output == "binary":
        return (np.packbits(vector > 0).astype(np.int16) - 128).astype(np.int8)
    if output == "int8":
        return _levels(vector).astype(np.int8)
    if output == "uint8":
        return (_levels(vector) + 128).astype(np.uint8)
    if normalize:
        vector = unit(vector)
    if output == "base64":
        return base64.b64encode(vector.astype("<f4", copy=False).tobytes()).decode("ascii")
    return vector


def _levels(vector: Vector) -> Vector:
    """Return the unit vector in whole steps of 1/127, -127 to 127."""
    levels: Vector = np.rint(unit(vector) * np.float32(127))
    return levels
