"""Numbers as they were sent to float32 arrays, with errors that say which vector is wrong and how."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from phalanx.contract.vector import Vector
from phalanx.errors import InvalidRequest, UnreadableInput

Numbers = Sequence[float] | Vector
Rows = Sequence[Sequence[float]] | Vector


def read_vector(numbers: Numbers, name: str) -> Vector:
    """Return float32 `[d]`. Raises what `read_rows` raises."""
    rows = numbers[None] if isinstance(numbers, np.ndarray) else [numbers]
    vector: Vector = read_rows(rows, name, single=True)[0]
    return vector


def read_rows(rows: Rows, name: str, *, single: bool = False) -> Vector:
    """Return float32 `[n, d]`, `n` and `d` at least 1, every number finite.

    Raises `InvalidRequest` for no rows, empty rows, and rows of unequal length; `UnreadableInput` for NaN, infinity and
    what float32 cannot hold. `name` is the field's; the errors name the row too, unless it is a `single` one.
    """
    if len(rows) == 0:
        raise InvalidRequest(f"{name} is empty; send at least one vector", param=name)
    matrix = np.asarray(rows, np.float32) if isinstance(rows, np.ndarray) else _packed(rows, name)
    if matrix.shape[1] == 0:
        raise InvalidRequest(f"{_place(name, 0, single)} is empty; a vector has at least one number", param=name)
    if not np.isfinite(matrix).all():
        bad = int(np.flatnonzero(~np.isfinite(matrix).all(axis=1))[0])
        said = f"{_place(name, bad, single)} has a number that is NaN, infinite or beyond float32"
        raise UnreadableInput(said, param=name)
    return matrix


def require_equal_sizes(left: Vector, right: Vector, left_name: str, right_name: str) -> None:
    """Raise `InvalidRequest`, with both sizes, where the vectors of two arrays differ in length."""
    one, other = left.shape[-1], right.shape[-1]
    if one != other:
        said = f"vectors of {left_name} have {one} numbers, those of {right_name} {other}; they must have as many"
        raise InvalidRequest(said, param=right_name)


def _packed(rows: Any, name: str) -> Vector:
    """Return rows of Python floats as an array: packing takes half the time of `np.asarray`."""
    width = len(rows[0])
    for index, row in enumerate(rows):
        if len(row) != width:
            said = f"{name}[{index}] has {len(row)} numbers, {name}[0] has {width}; they must have as many"
            raise InvalidRequest(said, param=name)
    pack = struct.Struct(f"{width}f").pack
    # In native form a number beyond float32 becomes infinite.
    return np.frombuffer(b"".join([pack(*row) for row in rows]), np.float32).reshape(len(rows), width)


def _place(name: str, index: int, single: bool) -> str:
    return name if single else f"{name}[{index}]"
