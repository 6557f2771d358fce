"""What every store of vectors checks before it keeps or looks for anything, so that all refuse the same."""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from msgspec import UNSET

from phalanx.contract.collections import Condition, Filter, MatchOf, RangeOf
from phalanx.contract.vector import Vector
from phalanx.errors import InvalidRequest
from phalanx.ports import Distance, Point

MAX_DIMENSIONS = 65_536
MAX_PAYLOAD_DEPTH = 32
"""How deep objects and lists of a payload may lie in each other: the engines walk them by recursion."""
MAX_WHOLE = 2**63 - 1
_PLACE = re.compile(r"[A-Za-z0-9_-]{1,128}")


def check_place(place: str, dimensions: int) -> None:
    """Raise `InvalidRequest` for a name or a number of dimensions that no place may have."""
    if not _PLACE.fullmatch(place):
        raise InvalidRequest("the name of a place is 1 to 128 letters, digits, - and _")
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise InvalidRequest(f"a vector has 1 to {MAX_DIMENSIONS:,} dimensions, not {dimensions:,}")


def check_points(points: Sequence[Point], dimensions: int, distance: Distance) -> Vector:
    """Return the points' vectors as float32 `[n, d]`. Raises `InvalidRequest`, which says which point is at fault."""
    check_contents(points)
    return check_vectors([point.vector for point in points], dimensions, distance)


def check_contents(points: Sequence[Point]) -> None:
    """Raise `InvalidRequest` for an id or a payload that no store takes."""
    for number, point in enumerate(points):
        try:
            check_id(point.id)
            _check_value(point.payload, MAX_PAYLOAD_DEPTH)
        except InvalidRequest as error:
            raise InvalidRequest(f"point {number}: {error.detail}") from None


def check_vectors(vectors: Sequence[Vector | None], dimensions: int, distance: Distance) -> Vector:
    """Return vectors as float32 `[n, d]`. Raises `InvalidRequest`, which says which one is at fault."""
    rows = np.empty((len(vectors), dimensions), np.float32)
    if all(vector is not None and vector.dtype == np.float32 and vector.shape == (dimensions,) for vector in vectors):
        # All at once, since they nearly always are well; what is wrong is then looked for one by one.
        for number, vector in enumerate(vectors):
            rows[number] = vector
        if np.isfinite(rows).all() and (distance != "cosine" or rows.any(axis=1).all()):
            return rows
    for number, vector in enumerate(vectors):
        try:
            rows[number] = check_vector(vector, dimensions, distance)
        except InvalidRequest as error:
            raise InvalidRequest(f"point {number}: {error.detail}") from None
    return rows


def check_vector(vector: Vector | None, dimensions: int, distance: Distance) -> Vector:
    """Return a vector as float32 `[d]`. Raises `InvalidRequest` for another length, and what is not a number."""
    if vector is None:
        raise InvalidRequest("there is no vector")
    with np.errstate(over="ignore"):
        checked = np.ascontiguousarray(vector, np.float32)
    if checked.shape != (dimensions,):
        raise InvalidRequest(f"the vector has {checked.size:,} dimensions; {dimensions:,} are needed")
    if not np.isfinite(checked).all():
        raise InvalidRequest("the vector holds NaN, an infinity, or a number beyond float32")
    if distance == "cosine" and not checked.any():
        raise InvalidRequest("a vector of zeros has no direction, so no cosine")
    return checked


def check_id(name: str) -> str:
    """Return an id that is a UUID in its canonical text. Raises `InvalidRequest`."""
    try:
        if str(uuid.UUID(name)) == name:
            return name
    except (ValueError, AttributeError):
        pass
    raise InvalidRequest("the id of a point is a UUID in lower case, with hyphens")


def check_filter(only: Filter | None) -> None:
    """Raise `InvalidRequest` for a condition that says nothing, or two things at once."""
    if only is None:
        return
    for condition in (*only.must, *only.must_not, *only.should):
        if (condition.match is None) == (condition.range is None):
            raise InvalidRequest(f"the condition on {condition.key!r} has either a match or a range")
        if condition.match is not None:
            _check_match(condition.key, condition.match)
        if condition.range is not None and not bounds(condition.range):
            raise InvalidRequest(f"the range of {condition.key!r} has no bound")


def bounds(range_: RangeOf) -> dict[str, float]:
    """Return the bounds that a range has, by `gt`, `gte`, `lt`, `lte`."""
    named = {"gt": range_.gt, "gte": range_.gte, "lt": range_.lt, "lte": range_.lte}
    return {name: bound for name, bound in named.items() if bound is not None}


def lets_through(only: Filter | None, payload: dict[str, Any]) -> bool:
    """Whether a filter lets a payload through."""
    if only is None:
        return True
    return (
        all(_meets(payload, condition) for condition in only.must)
        and not any(_meets(payload, condition) for condition in only.must_not)
        and (not only.should or any(_meets(payload, condition) for condition in only.should))
    )


def values_at(payload: dict[str, Any], key: str) -> Iterator[Any]:
    """Yield what stands under a key: a value, or each item of a list. Lists of objects are not entered."""
    value: Any = payload
    for name in key.split("."):
        if not isinstance(value, dict) or name not in value:
            return
        value = value[name]
    if isinstance(value, list):
        yield from value
    else:
        yield value


def _meets(payload: dict[str, Any], condition: Condition) -> bool:
    values = values_at(payload, condition.key)
    if condition.match is not None:
        wanted = [condition.match.value] if condition.match.any is UNSET else condition.match.any
        # True is 1 and 1.0 is 1 to Python, but not to JSON's readers.
        return any(type(value) is type(other) and value == other for value in values for other in wanted)
    limits = bounds(condition.range or RangeOf())
    return any(type(value) in (int, float) and _within(float(value), limits) for value in values)


def _within(value: float, limits: dict[str, float]) -> bool:
    return (
        value > limits.get("gt", -math.inf)
        and value >= limits.get("gte", -math.inf)
        and value < limits.get("lt", math.inf)
        and value <= limits.get("lte", math.inf)
    )


def _check_match(key: str, match: MatchOf) -> None:
    if (match.value is UNSET) == (match.any is UNSET):
        raise InvalidRequest(f"the match of {key!r} has either a value or any")
    for wanted in [match.value] if match.any is UNSET else match.any or []:
        _check_value(wanted, 1)


def _check_value(value: Any, depth: int) -> None:
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise InvalidRequest("a text of the payload holds half a surrogate pair")
    elif isinstance(value, dict | list):
        if depth == 0:
            raise InvalidRequest(f"the payload is more than {MAX_PAYLOAD_DEPTH} objects and lists deep")
        for part in value:
            _check_value(part, depth - 1)
        for part in value.values() if isinstance(value, dict) else ():
            _check_value(part, depth - 1)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidRequest("a number of the payload is NaN or an infinity")
    elif isinstance(value, int):
        if not -MAX_WHOLE - 1 <= value <= MAX_WHOLE:
            raise InvalidRequest("a whole number of the payload does not fit into 64 bits")
    elif value is not None:
        raise InvalidRequest(f"the payload holds a {type(value).__name__}, which is no JSON value")
