"""Vectors in this process's memory, compared one by one: what the other stores of vectors are held against.

It forgets everything when the process ends, so nothing is served from it: a worker without `QDRANT_URL` keeps its vectors in
Qdrant Edge.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from phalanx.contract.collections import Filter
from phalanx.contract.vector import Vector
from phalanx.errors import Conflict, InvalidRequest, NotFound
from phalanx.ports import Distance, Hit, Point
from phalanx.stores.points import (
    check_filter,
    check_id,
    check_place,
    check_points,
    check_vector,
    lets_through,
    values_at,
)


@dataclass
class _Place:
    dimensions: int
    distance: Distance
    indexed: set[str] = field(default_factory=set)
    points: dict[str, tuple[Vector, bytes]] = field(default_factory=dict)


class MemoryVectorStore:
    """A `VectorStore` in dictionaries. Exact, and slow beyond some ten thousand points."""

    def __init__(self) -> None:
        self._places: dict[str, _Place] = {}

    async def create(self, place: str, *, dimensions: int, distance: Distance, indexed: Sequence[str] = ()) -> None:
        """Make a place, if it is not there. Raises `Conflict`, `InvalidRequest`."""
        check_place(place, dimensions)
        there = self._places.setdefault(place, _Place(dimensions, distance))
        if (there.dimensions, there.distance) != (dimensions, distance):
            raise Conflict(f"the place is there, with {there.dimensions:,} dimensions and {there.distance}")
        there.indexed.update(indexed)

    async def drop(self, place: str) -> bool:
        """Do away with a place. Returns whether it was there."""
        return self._places.pop(place, None) is not None

    async def places(self) -> list[str]:
        """Return the names of all places, in order."""
        return sorted(self._places)

    async def upsert(self, place: str, points: Sequence[Point]) -> None:
        """Keep points, each instead of the one of its id. Raises `NotFound`, `InvalidRequest`."""
        there = self._place(place)
        rows = check_points(points, there.dimensions, there.distance)
        for point, row in zip(points, rows, strict=True):
            there.points[point.id] = (row, msgspec.json.encode(point.payload))

    async def delete(self, place: str, ids: Sequence[str]) -> None:
        """Delete points by their ids. Raises `NotFound`, `InvalidRequest`."""
        there = self._place(place)
        for name in [check_id(name) for name in ids]:
            there.points.pop(name, None)

    async def delete_where(self, place: str, only: Filter, *, erase: bool = False) -> None:
        """Delete all points that a filter lets through; they are nowhere else. Raises `NotFound`, `InvalidRequest`."""
        there = self._place(place)
        for name in [name for name, _ in self._let_through(there, only)]:
            del there.points[name]

    async def get(self, place: str, ids: Sequence[str], *, with_vectors: bool = False) -> list[Point]:
        """Return the points that are there, in the order of `ids`. Raises `NotFound`, `InvalidRequest`."""
        there = self._place(place)
        known = [name for name in map(check_id, ids) if name in there.points]
        return [_point(there, name, with_vectors) for name in known]

    async def search(
        self, place: str, vector: Vector, *, limit: int, only: Filter | None = None, with_vectors: bool = False
    ) -> list[Hit]:
        """Return the nearest points, nearest first. Raises `NotFound`, `InvalidRequest`."""
        there = self._place(place)
        query = check_vector(vector, there.dimensions, there.distance).astype(np.float64)
        ids = [name for name, _ in self._let_through(there, only)]
        if not ids:
            return []
        scores = _scores(np.stack([there.points[name][0] for name in ids]).astype(np.float64), query, there.distance)
        order = np.argsort(scores if there.distance == "euclidean" else -scores, kind="stable")[:limit]
        found = [(float(scores[row]), _point(there, ids[row], with_vectors)) for row in order]
        return [Hit(point.id, score, point.payload, point.vector) for score, point in found]

    async def scroll(
        self,
        place: str,
        *,
        after: str | None = None,
        limit: int,
        only: Filter | None = None,
        with_vectors: bool = False,
    ) -> list[Point]:
        """Return points in the order of their ids, from the one behind `after`. Raises `NotFound`, `InvalidRequest`."""
        there = self._place(place)
        ids = sorted(name for name, _ in self._let_through(there, only))
        start = 0 if after is None else bisect.bisect_right(ids, check_id(after))
        return [_point(there, name, with_vectors) for name in ids[start : start + limit]]

    async def count(self, place: str, only: Filter | None = None) -> int:
        """Count points. Raises `NotFound`, `InvalidRequest`."""
        return sum(1 for _ in self._let_through(self._place(place), only))

    async def tally(self, place: str, key: str, *, limit: int, only: Filter | None = None) -> list[tuple[str, int]]:
        """Count the points of each value of an indexed key. Raises `NotFound`, `InvalidRequest`."""
        there = self._place(place)
        if key not in there.indexed:
            raise InvalidRequest(f"the key {key!r} is not indexed")
        counts: Counter[str] = Counter()
        for _, payload in self._let_through(there, only):
            counts.update({value for value in values_at(payload, key) if isinstance(value, str)})
        return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:limit]

    async def ping(self) -> None:
        """Return at once: it is always there."""

    async def close(self) -> None:
        """Do nothing: what was kept goes with the object."""

    def _place(self, place: str) -> _Place:
        try:
            return self._places[place]
        except KeyError:
            raise NotFound("there is no such place of vectors") from None

    def _let_through(self, there: _Place, only: Filter | None) -> Iterator[tuple[str, dict[str, Any]]]:
        check_filter(only)
        for name, (_, payload) in list(there.points.items()):
            read: dict[str, Any] = msgspec.json.decode(payload)
            if lets_through(only, read):
                yield name, read


def _point(there: _Place, name: str, with_vectors: bool) -> Point:
    vector, payload = there.points[name]
    return Point(name, vector.copy() if with_vectors else None, msgspec.json.decode(payload))


def _scores(
    rows: npt.NDArray[np.float64], query: npt.NDArray[np.float64], distance: Distance
) -> npt.NDArray[np.float64]:
    scores: npt.NDArray[np.float64]
    if distance == "euclidean":
        scores = np.linalg.norm(rows - query, axis=1)
        return scores
    scores = rows @ query
    if distance == "cosine":
        scores = scores / (np.linalg.norm(rows, axis=1) * np.linalg.norm(query))
    return scores
