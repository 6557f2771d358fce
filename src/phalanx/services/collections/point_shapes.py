"""Points as callers send and see them, and as the store of vectors keeps them."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from phalanx.contract.collections import Contract, Filter
from phalanx.contract.points import (
    MAX_PAYLOAD_BYTES,
    MAX_POINTS,
    MAX_TEXT_POINTS,
    FoundPoint,
    NewPoint,
    PointId,
    PointView,
)
from phalanx.contract.vector import Vector
from phalanx.engines.vector.reading import read_vector
from phalanx.errors import InvalidRequest, TooLarge, UnreadableInput
from phalanx.ports import Hit, Point

RESERVED = "_phalanx"
"""What payload keys of our own begin with."""
ID_KEY = f"{RESERVED}_id"
"""Where the caller's own id of a point is, unless it is a UUID."""
PENDING_KEY = f"{RESERVED}_pending"
SOURCE_KEY = f"{RESERVED}_from"
"""Of a face that was brought from another place: the id that it had there."""
"""Marks a point whose vector waits for another model; what is there instead is only a stand-in."""
TEXT_KEY = "text"
"""Where the text of a point is, in a collection of texts."""

_NAMESPACE = uuid.UUID("8d2f0c6e-6a0b-5d0e-9b1c-1d8a5f5f7c11")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)


def stored_id(own: PointId) -> str:
    """Return the UUID that a point has in the store: the caller's own, or one of version 5 made of the word or number.

    The name that is hashed is `s:` and the word, or `i:` and the number; the namespace is fixed.
    """
    if isinstance(own, str) and _UUID.fullmatch(own):
        return own.lower()
    return str(uuid.uuid5(_NAMESPACE, f"s:{own}" if isinstance(own, str) else f"i:{own}"))


def content_id(organisation: str, kind: str, content: bytes) -> str:
    """Return the id of a point that was sent without one: the same for the same content of the same organisation.

    `kind` is that of the collection. The model is not in it: a text stays the same point when its collection moves.
    """
    digest = hashlib.blake2b(content, digest_size=32).hexdigest()
    return str(uuid.uuid5(_NAMESPACE, f"c:{organisation}\x1f{kind}\x1f{digest}"))


def own_id(point_id: str, payload: dict[str, Any]) -> PointId:
    """Return the id that the caller knows a stored point by."""
    kept: PointId = payload.get(ID_KEY, point_id)
    return kept


def own_payload(payload: dict[str, Any]) -> dict[str, Any]:
    """Return a payload without what is ours in it."""
    if ID_KEY not in payload and PENDING_KEY not in payload and SOURCE_KEY not in payload:
        return payload
    return {key: value for key, value in payload.items() if not key.startswith(RESERVED)}


def view_point(point: Point) -> PointView:
    """Return a stored point as its caller sees it."""
    vector = None if PENDING_KEY in point.payload else point.vector
    return PointView(id=own_id(point.id, point.payload), payload=own_payload(point.payload), vector=vector)


def view_hit(hit: Hit) -> FoundPoint:
    """Return a point that was found as its caller sees it."""
    return FoundPoint(
        id=own_id(hit.id, hit.payload), score=hit.score, payload=own_payload(hit.payload), vector=hit.vector
    )


def check_points(points: Sequence[NewPoint], *, are_texts: bool) -> None:
    """Raise `TooLarge` for too many points, `InvalidRequest` for none, or for what does not fit their kind."""
    limit = MAX_TEXT_POINTS if are_texts else MAX_POINTS
    if len(points) > limit:
        what = "points with a text" if are_texts else "points"
        raise TooLarge(f"{len(points)} {what} were sent, {limit} are allowed in one call", param="points")
    if not points:
        raise InvalidRequest("points is empty; send at least one", param="points")
    wanted, other = ("text", "vector") if are_texts else ("vector", "text")
    for index, point in enumerate(points):
        if getattr(point, other) is not None:
            raise InvalidRequest(f"points[{index}] has a {other}; this collection takes a {wanted}", param=other)
        if getattr(point, wanted) is None:
            raise InvalidRequest(f"points[{index}] lacks a {wanted}", param=wanted)
        if are_texts and (not point.text or point.text.isspace()):
            raise InvalidRequest(f"the text of points[{index}] is empty or white space only", param="text")
        check_payload(point, f"points[{index}]", has_text=are_texts)


def check_payload(point: NewPoint, name: str, *, has_text: bool) -> None:
    """Raise `TooLarge` over 64 KiB of JSON, the text counted, and `InvalidRequest` for what no payload may hold."""
    payload = point.payload
    for key in payload:
        if key.startswith(RESERVED) or (has_text and key == TEXT_KEY):
            said = f"the payload of {name} has the key {key!r}, which is kept for "
            raise InvalidRequest(said + ("the text" if key == TEXT_KEY else "us"), param="payload")
    size = len(msgspec.json.encode(payload)) + len((point.text or "").encode())
    if size > MAX_PAYLOAD_BYTES:
        with_text = " with its text" if has_text else ""
        said = f"the payload of {name}{with_text} has {size} bytes, {MAX_PAYLOAD_BYTES} are allowed"
        raise TooLarge(said, param="payload")


def read_point_vector(numbers: Sequence[float], contract: Contract, name: str) -> Vector:
    """Return float32 `[d]`. Raises `InvalidRequest` for another length, `UnreadableInput` for NaN, and for zero under cosine."""
    if len(numbers) != contract.dimensions:
        said = f"{name} has {len(numbers)} numbers, the collection's vectors have {contract.dimensions}"
        raise InvalidRequest(said, param="vector")
    vector = read_vector(numbers, name)
    if contract.metric == "cosine" and not vector.any():
        raise UnreadableInput(f"{name} is zero, which has no direction to compare by cosine", param="vector")
    return vector


def stored_payload(point: NewPoint) -> dict[str, Any]:
    """Return what a point's payload is in the store."""
    kept = dict(point.payload)
    if point.text is not None:
        kept[TEXT_KEY] = point.text
    if point.id is not None and stored_id(point.id) != str(point.id).lower():
        kept[ID_KEY] = point.id
    return kept


def stand_in(dimensions: int) -> Vector:
    """Return a vector for a point whose own is yet to come."""
    vector = np.zeros(dimensions, np.float32)
    vector[0] = 1.0
    return vector


def is_empty(only: Filter) -> bool:
    """Whether a filter lets every point through."""
    return not (only.must or only.must_not or only.should)
