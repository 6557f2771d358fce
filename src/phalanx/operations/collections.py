"""Rows about collections and their points."""

from __future__ import annotations

from phalanx.contract import collections, points
from phalanx.operations.row import Body, Operation

_LEGENDS = {"must": [{"key": "shelf", "match": {"value": "legends"}}]}

COLLECTIONS: tuple[Operation, ...] = (
    Operation(
        name="collections.list", request=collections.ListCollectionsRequest,
        response=collections.ListCollectionsResponse, scope="vectors", http="GET /v1/collections",
        grpc="Collections/List", bodies=(Body.NONE,), run=lambda s, t, r: s.collections.list(t, r),
        summary="List collections.", metered=False, examples=({},),
    ),
    Operation(
        name="collections.create", request=collections.CreateCollectionRequest, response=collections.CollectionView,
        scope="vectors", http="PUT /v1/collections/{name}", grpc="Collections/Create",
        run=lambda s, t, r: s.collections.create(t, r), metered=False,
        summary="Create a collection of vectors, texts or faces; doing it again changes nothing.",
        examples=(
            {"name": "colours", "kind": "vectors", "dimensions": 3, "metric": "euclidean"},
            {"name": "books", "kind": "texts"},
        ),
    ),
    Operation(
        name="collections.get", request=collections.CollectionRequest, response=collections.CollectionView,
        scope="vectors", http="GET /v1/collections/{name}", grpc="Collections/Get", bodies=(Body.NONE,),
        run=lambda s, t, r: s.collections.get(t, r), summary="Show a collection, its contract and its place.",
        metered=False, examples=({"name": "books"},),
    ),
    Operation(
        name="collections.delete", request=collections.CollectionRequest, response=collections.DeleteCollectionResponse,
        scope="vectors", http="DELETE /v1/collections/{name}", grpc="Collections/Delete", bodies=(Body.NONE,),
        run=lambda s, t, r: s.collections.delete(t, r), summary="Delete a collection with all its points.",
        metered=False, audit=True, examples=({"name": "books"},),
    ),
    Operation(
        name="collections.upsert", request=points.UpsertPointsRequest, response=points.UpsertPointsResponse,
        scope="vectors", unit="vector", http="POST /v1/collections/{name}/points", grpc="Collections/Upsert", job=True,
        computed=True, run=lambda s, t, r: s.points.upsert(t, r),
        summary="Keep points, made of vectors or of texts; each replaces the one with its id.",
        examples=(
            {"name": "colours", "points": [{"id": "red", "vector": [1.0, 0.0, 0.0], "payload": {"warm": True}}]},
            {"name": "books", "points": [{"id": 7, "text": "The Odyssey", "payload": {"shelf": "legends"}}]},
        ),
    ),
    Operation(
        name="collections.scroll", request=points.ScrollPointsRequest, response=points.ScrollPointsResponse,
        scope="vectors", http="GET /v1/collections/{name}/points", grpc="Collections/Scroll", bodies=(Body.NONE,),
        computed=True, run=lambda s, t, r: s.points.scroll(t, r), summary="Read the points page by page.",
        examples=({"name": "books"},),
    ),
    Operation(
        name="collections.delete_points", request=points.DeletePointsRequest, response=points.DeletePointsResponse,
        scope="vectors", http="POST /v1/collections/{name}/points/delete", grpc="Collections/DeletePoints", job=True,
        computed=True, run=lambda s, t, r: s.points.delete(t, r), summary="Delete points by their ids or by a filter.",
        examples=({"name": "books", "ids": [7]}, {"name": "books", "filter": _LEGENDS}),
    ),
    Operation(
        name="collections.search", request=points.SearchRequest, response=points.SearchResponse, scope="vectors",
        unit="vector", http="POST /v1/collections/{name}/search", grpc="Collections/Search", job=True, computed=True,
        run=lambda s, t, r: s.points.search(t, r), summary="Find the points nearest to a vector, a text or a point.",
        examples=(
            {"name": "colours", "vector": [0.9, 0.1, 0.0], "limit": 1},
            {"name": "books", "text": "a long voyage home", "filter": _LEGENDS},
        ),
    ),
    Operation(
        name="collections.count", request=points.CountRequest, response=points.CountResponse, scope="vectors",
        http="GET /v1/collections/{name}/count", grpc="Collections/Count", bodies=(Body.NONE,), computed=True,
        run=lambda s, t, r: s.points.count(t, r), summary="Count points.", examples=({"name": "books"},),
    ),
    Operation(
        name="collections.count_matching", request=points.CountMatchingRequest, response=points.CountResponse,
        scope="vectors", http="POST /v1/collections/{name}/count", grpc="Collections/CountMatching", computed=True,
        run=lambda s, t, r: s.points.count_matching(t, r), summary="Count the points that match a filter.",
        examples=({"name": "books", "filter": _LEGENDS},),
    ),
    Operation(
        name="collections.reembed", request=collections.ReembedRequest, response=collections.ReembedView,
        scope="vectors", http="POST /v1/collections/{name}/reembed", grpc="Collections/Reembed",
        run=lambda s, t, r: s.reembedding.start(t, r), metered=False, audit=True,
        summary="Move a collection to the model that serves now, while it goes on answering.",
        examples=({"name": "books"},),
    ),
    Operation(
        name="collections.reembed_status", request=collections.ReembedStatusRequest, response=collections.ReembedView,
        scope="vectors", http="GET /v1/collections/{name}/reembed", grpc="Collections/ReembedStatus",
        bodies=(Body.NONE,), run=lambda s, t, r: s.reembedding.show(t, r), metered=False,
        summary="Show how far a collection has moved.", examples=({"name": "books"},),
    ),
)  # fmt: skip
