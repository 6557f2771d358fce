"""Where vectors are kept and searched, and which collections there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

from phalanx.contract.collections import Filter
from phalanx.contract.vector import Vector

Distance = Literal["cosine", "euclidean", "dot"]
"""How near two vectors are. Scores: cosine in -1..1 and dot, larger is nearer; euclidean is a distance, smaller is nearer."""


class Point(NamedTuple):
    """A vector with what is known of it. `id` is a UUID in its canonical text; `vector` float32 `[d]`, or None where it
    was not asked for; `payload` holds JSON values.
    """

    id: str
    vector: Vector | None
    payload: dict[str, Any]


class Hit(NamedTuple):
    """A point that was found, with its score by the collection's distance."""

    id: str
    score: float
    payload: dict[str, Any]
    vector: Vector | None = None


class VectorStore(Protocol):
    """Collections of points, searched by nearness. Vectors come back as they were stored, whatever the distance.

    Names are what `CollectionStore` calls `place`: letters, digits, `-` and `_`. A place that is not there raises
    `NotFound`. A vector of another length or with NaN, one of zeros where the distance is cosine, and a payload that is no JSON
    or more than 32 deep raise `InvalidRequest`. What was acknowledged survives the death of the process.
    Down: `unavailable`, and nothing of the call is done or all of it.
    """

    async def create(self, place: str, *, dimensions: int, distance: Distance, indexed: Sequence[str] = ()) -> None:
        """Make a place, if it is not there; `indexed` are payload keys whose values are words that filters ask for.

        Raises `Conflict` when it is there with other dimensions or another distance.
        """
        ...

    async def drop(self, place: str) -> bool:
        """Do away with a place and all points in it. Returns whether it was there."""
        ...

    async def places(self) -> list[str]:
        """Return the names of all places, in order."""
        ...

    async def upsert(self, place: str, points: Sequence[Point]) -> None:
        """Keep points, each instead of the one of its id."""
        ...

    async def delete(self, place: str, ids: Sequence[str]) -> None:
        """Delete points by their ids; those that are not there are passed over."""
        ...

    async def delete_where(self, place: str, only: Filter, *, erase: bool = False) -> None:
        """Delete all points that a filter lets through.

        With `erase` the store's own files are written anew without them soon afterwards, a restart in between or not; a
        server's are its own affair.
        """
        ...

    async def get(self, place: str, ids: Sequence[str], *, with_vectors: bool = False) -> list[Point]:
        """Return the points that are there, in the order of `ids`."""
        ...

    async def search(
        self, place: str, vector: Vector, *, limit: int, only: Filter | None = None, with_vectors: bool = False
    ) -> list[Hit]:
        """Return the nearest points, nearest first."""
        ...

    async def scroll(
        self,
        place: str,
        *,
        after: str | None = None,
        limit: int,
        only: Filter | None = None,
        with_vectors: bool = False,
    ) -> list[Point]:
        """Return points in the order of their ids, from the one behind `after`. Fewer than `limit` are the last ones."""
        ...

    async def count(self, place: str, only: Filter | None = None) -> int:
        """Count points, exactly."""
        ...

    async def tally(self, place: str, key: str, *, limit: int, only: Filter | None = None) -> list[tuple[str, int]]:
        """Count the points of each value of an indexed key, exactly: the most frequent first, then in order of values."""
        ...

    async def ping(self) -> None:
        """Return when the store answers; raise `Unavailable` when it does not."""
        ...

    async def close(self) -> None:
        """Let go of it. What was acknowledged is on disk."""
        ...


class CollectionRecord(NamedTuple):
    """A collection of an organisation, and the place where its points are.

    `contract` pins what its vectors mean: model, version, preprocessing, dimensions, distance, as JSON. While points move
    to another contract, `next_place` and `next_contract` say where to; both are empty otherwise.
    """

    organisation: str
    name: str
    kind: str
    place: str
    contract: str
    created_at: float
    next_place: str = ""
    next_contract: str = ""


class CollectionStore(Protocol):
    """Which collections there are, by organisation and name. Down: `unavailable`."""

    async def create(self, record: CollectionRecord) -> CollectionRecord:
        """Keep a record, unless there is one of that organisation and name; returns the one that is kept."""
        ...

    async def find(self, organisation: str, name: str) -> CollectionRecord | None:
        """Return a record."""
        ...

    async def list_all(self, *, after: tuple[str, str] = ("", ""), limit: int = 100) -> list[CollectionRecord]:
        """Return records of all organisations, in the order of organisation and name, from the one behind `after`."""
        ...

    async def list(self, organisation: str, *, after: str = "", limit: int = 100) -> list[CollectionRecord]:
        """Return an organisation's records in the order of their names, from the one behind `after`."""
        ...

    async def replace(self, known: CollectionRecord, new: CollectionRecord) -> bool:
        """Put a record in place of another, if that is what is kept; both have the same organisation and name."""
        ...

    async def delete(self, organisation: str, name: str) -> CollectionRecord | None:
        """Forget a record and return it; None when there was none."""
        ...
