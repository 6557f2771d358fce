"""Points of a collection: kept, looked at, deleted, searched."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from phalanx.contract.collections import CollectionName, Filter
from phalanx.contract.keys import Id
from phalanx.contract.text import TokenUsage
from phalanx.contract.vector import Embedding
from phalanx.contract.vectors import Metric

MAX_POINTS = 1000
"""Points in one call, of vectors; those of texts are fewer, so that a call ends within its deadline."""
MAX_TEXT_POINTS = 256
MAX_PAYLOAD_BYTES = 64 * 1024

PointId = Annotated[str, Meta(min_length=1, max_length=256)] | Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""A UUID, any other word, or a whole number: the caller's own name for a point."""
Payload = Annotated[dict[str, Any], Meta(description="What is known of the point: at most 64 KiB of JSON.")]
Limit = Annotated[int, Meta(ge=1, le=1000)]


class NewPoint(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A point to keep: a `vector`, or, in a collection of texts, a `text`, which is kept in the payload under `text`.

    Without an `id` it has one by its vector or text: the same one twice is one point.
    """

    id: PointId | None = None
    vector: list[float] | None = None
    text: str | None = None
    payload: Payload = {}


class UpsertPointsRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Points to keep, each instead of the one of its id; all of them or none."""

    name: CollectionName
    points: list[NewPoint]
    organisation: Id | None = None


class UpsertPointsResponse(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The ids of the points, in order; `usage` where texts were embedded. They are on disk."""

    ids: list[PointId]
    usage: TokenUsage | None = None


class ScrollPointsRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask for points in an order of the store's own, from the one behind `after`."""

    name: CollectionName
    after: Annotated[str, Meta(max_length=256, description="`next` of the page before.")] | None = None
    limit: Limit = 100
    with_vectors: bool = False
    organisation: Id | None = None


class PointView(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A point; `vector` is float32 `[d]`, if it was asked for."""

    id: PointId
    payload: Payload
    vector: Embedding = None


class ScrollPointsResponse(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Points; `next` is what to ask `after` for those behind, absent at the end."""

    points: list[PointView]
    next: str | None = None


class DeletePointsRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Say which points go: those of `ids`, or those that a `filter` lets through."""

    name: CollectionName
    ids: list[PointId] | None = None
    filter: Filter | None = None
    organisation: Id | None = None


class DeletePointsResponse(Struct, frozen=True, kw_only=True):
    """How many there were to delete."""

    deleted: int


class SearchRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask for the points nearest to a `vector`, a `text` (in a collection of texts), or the point of an `id`, one of them.

    `score_threshold` leaves out what is farther: scores of less than it, under the euclidean metric of more.
    """

    name: CollectionName
    vector: list[float] | None = None
    text: str | None = None
    id: PointId | None = None
    filter: Filter | None = None
    limit: Limit = 10
    with_vectors: bool = False
    score_threshold: float | None = None
    organisation: Id | None = None


class FoundPoint(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A point that was found, with its score by the collection's metric."""

    id: PointId
    score: float
    payload: Payload
    vector: Embedding = None


class SearchResponse(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The nearest points, nearest first; `usage` where a text was embedded.

    `moved` is there while the collection moves to another model and the search could only look at the part of it that
    has arrived: from 0 to 1.
    """

    matches: list[FoundPoint]
    metric: Metric
    usage: TokenUsage | None = None
    moved: float | UnsetType = UNSET


class CountRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask how many points there are."""

    name: CollectionName
    organisation: Id | None = None


class CountMatchingRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask how many points a filter lets through."""

    name: CollectionName
    filter: Filter
    organisation: Id | None = None


class CountResponse(Struct, frozen=True, kw_only=True):
    """How many, exactly."""

    count: int
