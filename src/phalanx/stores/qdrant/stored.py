"""How a point lies in Qdrant: a unit vector, its length where it had another, and the caller's payload under one key.

Qdrant keeps a vector for cosine as a unit vector, and forgets its length. So the length goes into the payload, and what
comes back is unit × length: within two roundings of float32 of what was stored. A vector that is of unit length already, as
those of most models are, is not touched, and comes back bit by bit.

True and false are kept as words: in a filter, Edge 0.9.0 takes True for 1, and finds no true at all. A word that begins as
those do is told apart by an escape, as is a key that Qdrant's paths cannot hold.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from phalanx.contract.vector import Vector
from phalanx.ports import Distance

PAYLOAD = "p"
"""Where the caller's payload is. Beside it is only ours, so no key of a caller's can collide with it."""
LENGTH = "n"
TRUE, FALSE = "%true", "%false"
UNIT_WITHIN = 1e-6
"""How far from 1 the squared length of a vector may be that Qdrant takes for a unit vector."""

_ESCAPES = str.maketrans({"%": "%25", '"': "%22"})


def unit_rows(rows: Vector, distance: Distance) -> tuple[Vector, list[float | None]]:
    """Return rows `[n, d]` as Qdrant is to keep them, and the length of each that lost it."""
    if distance != "cosine":
        return rows, [None] * len(rows)
    # In float64, since what is far from 1 squares to beyond float32.
    wide = rows.astype(np.float64)
    squares = np.einsum("nd,nd->n", wide, wide)
    lengths: npt.NDArray[np.float64] = np.sqrt(squares)
    is_unit = np.abs(squares - 1.0) <= UNIT_WITHIN
    units = np.where(is_unit[:, None], rows, (wide / lengths[:, None]).astype(np.float32))
    return units, [None if unit else float(length) for unit, length in zip(is_unit, lengths, strict=True)]


def restored(vector: Vector, length: float | None) -> Vector:
    """Return a vector as it was before `unit_rows`."""
    return vector if length is None else (vector.astype(np.float64) * length).astype(np.float32)


def to_stored(payload: dict[str, Any], length: float | None) -> dict[str, Any]:
    """Return the payload that Qdrant is to keep."""
    stored = {PAYLOAD: _encoded(payload)}
    return stored if length is None else {**stored, LENGTH: length}


def from_stored(stored: dict[str, Any] | None) -> tuple[dict[str, Any], float | None]:
    """Return the caller's payload, and the length that the vector had."""
    stored = stored or {}
    return _decoded(stored.get(PAYLOAD) or {}), stored.get(LENGTH)


def stored_value(value: str | int | bool) -> str | int:
    """Return what Qdrant has in place of a value, for filters."""
    stored: str | int = _encoded(value)
    return stored


def tallied(hits: Iterable[tuple[Any, int]], limit: int) -> list[tuple[str, int]]:
    """Return the words of a tally that was asked for two values more than `limit`: true and false are no words.

    Values whose points are gone come with a count of 0, until their segment is written anew: they are left out.
    """
    read = ((_decoded(value), count) for value, count in hits if count)
    return [(word, count) for word, count in read if isinstance(word, str)][:limit]


def path_of(key: str) -> str:
    """Return Qdrant's path of a payload's key, a dot of which leads into an object."""
    return ".".join([PAYLOAD, *(f'"{_escape(name)}"' for name in key.split("."))])


def behind(name: str) -> str | None:
    """Return the id that comes next, None behind the last: Qdrant scrolls from an id on, that one included."""
    number = uuid.UUID(name).int + 1
    return str(uuid.UUID(int=number)) if number >> 128 == 0 else None


def _escape(name: str) -> str:
    # Qdrant's paths can hold any key in quotes but one that has quotes, or nothing, in it.
    if name == "":
        return "%"
    return name.translate(_ESCAPES) if "%" in name or '"' in name else name


def _unescape(name: str) -> str:
    if "%" not in name:
        return name
    return "" if name == "%" else name.replace("%22", '"').replace("%25", "%")


def _encoded(value: Any) -> Any:
    if isinstance(value, str):
        return f"%25{value[1:]}" if value.startswith("%") else value
    if isinstance(value, bool):
        return TRUE if value else FALSE
    if isinstance(value, dict):
        return {_escape(name): _encoded(part) for name, part in value.items()}
    return [_encoded(part) for part in value] if isinstance(value, list) else value


def _decoded(value: Any) -> Any:
    if isinstance(value, str):
        if not value.startswith("%"):
            return value
        return value == TRUE if value in (TRUE, FALSE) else f"%{value[3:]}"
    if isinstance(value, dict):
        return {_unescape(name): _decoded(part) for name, part in value.items()}
    return [_decoded(part) for part in value] if isinstance(value, list) else value
