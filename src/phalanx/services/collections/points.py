"""Points of a collection: kept, looked at, deleted, counted, searched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from msgspec import structs

from phalanx.contract.collections import Contract, Filter, TextsContract
from phalanx.contract.points import (
    MAX_POINTS,
    CountMatchingRequest,
    CountRequest,
    CountResponse,
    DeletePointsRequest,
    DeletePointsResponse,
    NewPoint,
    PointId,
    ScrollPointsRequest,
    ScrollPointsResponse,
    SearchRequest,
    SearchResponse,
    UpsertPointsRequest,
    UpsertPointsResponse,
)
from phalanx.contract.text import TokenUsage
from phalanx.contract.vector import Vector
from phalanx.errors import Conflict, InvalidRequest, NotFound, TooLarge
from phalanx.ports import Hit, Point
from phalanx.services.collections.moving import Carrier, TextVectors
from phalanx.services.collections.point_shapes import (
    PENDING_KEY,
    check_points,
    content_id,
    is_empty,
    read_point_vector,
    stand_in,
    stored_id,
    stored_payload,
    view_hit,
    view_point,
)
from phalanx.services.collections.registry import Collection, CollectionRegistry
from phalanx.services.ticket import Ticket

EMBEDDING_SHARE = 0.9
"""The part of keeping texts that is embedding them, for who follows a job: storing them takes the rest."""


class Aim(NamedTuple):
    """Where a search looks, and what the vectors there are. `is_next` says that points are still on their way to it."""

    place: str
    contract: Contract
    is_next: bool = False


class PointService:
    """The points of collections. Those of texts are embedded by the model that their collection is pinned to."""

    def __init__(self, registry: CollectionRegistry, vectors: TextVectors, carrier: Carrier) -> None:
        self._registry = registry
        self._store = registry.store
        self._vectors = vectors
        self._carrier = carrier

    async def upsert(self, ticket: Ticket, request: UpsertPointsRequest) -> UpsertPointsResponse:
        """Keep points, all of them or none; when this returns they are on disk.

        Raises `NotFound`, `Conflict` for a collection of faces, `ContractMismatch` when another model serves than the
        collection is pinned to, `TooLarge`, `InvalidRequest`, `UnreadableInput`, and what the text model and store raise.
        """
        known: dict[TextsContract, list[Vector]] = {}

        async def work(collection: Collection) -> list[PointId]:
            _check_kind(collection, request.points)
            ids = [_id_of(collection, point) for point in request.points]
            vectors = await self._vectors_of(ticket, collection, request.points, known)
            stored = {
                point_id: Point(point_id, vector, payload)
                for point_id, (vector, payload) in zip(map(stored_id, ids), vectors, strict=True)
            }
            # Where two have one id the last one stands.
            await self._store.upsert(collection.place, list(stored.values()))
            if collection.next_place:
                await self._carrier.carry(ticket, collection, list(stored))
            ticket.meter.items = ticket.meter.units = len(stored)
            return ids

        ids = await self._registry.write(ticket, request.name, work, organisation=request.organisation)
        return UpsertPointsResponse(ids=ids, usage=TokenUsage(tokens=ticket.meter.tokens) if known else None)

    async def scroll(self, ticket: Ticket, request: ScrollPointsRequest) -> ScrollPointsResponse:
        """Return a page of points. Raises `NotFound`, `InvalidRequest` for an `after` that was never given out."""
        after = None if request.after is None else stored_id(request.after)
        if after != request.after:
            raise InvalidRequest("after is no `next` of an answer", param="after")

        async def work(collection: Collection) -> list[Point]:
            return await self._store.scroll(
                collection.place, after=after, limit=request.limit + 1, with_vectors=request.with_vectors
            )

        found = await self._registry.read(ticket, request.name, work, organisation=request.organisation)
        page = found[: request.limit]
        ticket.meter.items = len(page)
        following = page[-1].id if len(found) > request.limit else None
        return ScrollPointsResponse(points=[view_point(point) for point in page], next=following)

    async def delete(self, ticket: Ticket, request: DeletePointsRequest) -> DeletePointsResponse:
        """Delete points by their ids or by a filter.

        Raises `NotFound` for the collection; points that are not there are passed over. Raises `InvalidRequest` unless one
        of both is sent, and for a filter that lets all through; `TooLarge`.
        """
        ids, only = request.ids, request.filter
        if (ids is None) == (only is None):
            raise InvalidRequest("send ids or a filter, one of them", param="ids")
        if ids is not None and len(ids) > MAX_POINTS:
            raise TooLarge(f"{len(ids)} ids were sent, {MAX_POINTS} are allowed in one call", param="ids")
        if only is not None and is_empty(only):
            raise InvalidRequest("an empty filter would delete all points; delete the collection", param="filter")
        deleted = 0

        async def work(collection: Collection) -> None:
            nonlocal deleted
            places = [place for place in (collection.place, collection.next_place) if place]
            if only is None:
                stored = list({stored_id(point_id) for point_id in ids or ()})
                deleted += len(await self._store.get(collection.place, stored))
                for place in places:
                    await self._store.delete(place, stored)
                return
            deleted += await self._store.count(collection.place, only)
            for place in places:
                await self._store.delete_where(place, only)

        await self._registry.write(ticket, request.name, work, organisation=request.organisation)
        ticket.meter.items = deleted
        return DeletePointsResponse(deleted=deleted)

    async def count(self, ticket: Ticket, request: CountRequest) -> CountResponse:
        """Count all points. Raises `NotFound`."""
        return await self._count(ticket, request.name, request.organisation, None)

    async def count_matching(self, ticket: Ticket, request: CountMatchingRequest) -> CountResponse:
        """Count the points that a filter lets through. Raises `NotFound`, `InvalidRequest`."""
        only = None if is_empty(request.filter) else request.filter
        return await self._count(ticket, request.name, request.organisation, only)

    async def search(self, ticket: Ticket, request: SearchRequest) -> SearchResponse:
        """Return the points nearest to a vector, a text or a point, which is not found itself.

        Raises `NotFound` for the collection and the point, `ContractMismatch` when another model serves than the
        collection is pinned to, `InvalidRequest`, `UnreadableInput`, and what the text model and store raise.
        """
        sent = [name for name in ("vector", "text", "id") if getattr(request, name) is not None]
        if len(sent) != 1:
            said = f"send a vector, a text or an id, one of them; this request has {' and '.join(sent) or 'none'}"
            raise InvalidRequest(said, param=sent[0] if sent else None)

        async def work(collection: Collection) -> SearchResponse:
            aim = self._aim(collection, is_by_id=request.id is not None)
            vector = await self._query(ticket, collection, aim, request)
            hits = await self._hits(aim, vector, request)
            moved = await self._moved(collection) if aim.is_next else None
            usage = TokenUsage(tokens=ticket.meter.tokens) if request.text is not None else None
            answer = SearchResponse(matches=[view_hit(hit) for hit in hits], metric=aim.contract.metric, usage=usage)
            return answer if moved is None else structs.replace(answer, moved=moved)

        answer = await self._registry.read(ticket, request.name, work, organisation=request.organisation)
        ticket.meter.items, ticket.meter.units = len(answer.matches), 1
        return answer

    async def _count(self, ticket: Ticket, name: str, organisation: str | None, only: Filter | None) -> CountResponse:
        async def work(collection: Collection) -> int:
            return await self._store.count(collection.place, only)

        return CountResponse(count=await self._registry.read(ticket, name, work, organisation=organisation))

    async def _vectors_of(
        self,
        ticket: Ticket,
        collection: Collection,
        points: Sequence[NewPoint],
        known: dict[TextsContract, list[Vector]],
    ) -> list[tuple[Vector, dict[str, object]]]:
        """Return each point's vector and payload. `known` keeps what was embedded, should the call have to begin anew.

        While a collection moves away from a model that serves no more, its old place gets stand-ins: it says what there
        is, and the next place is searched.
        """
        pinned, payloads = collection.contract, [stored_payload(point) for point in points]
        if not isinstance(pinned, TextsContract):
            rows = [
                read_point_vector(point.vector or [], pinned, f"points[{index}].vector")
                for index, point in enumerate(points)
            ]
            return list(zip(rows, payloads, strict=True))
        coming = collection.next_contract
        if isinstance(coming, TextsContract) and not self._vectors.serves(collection.name, pinned):
            self._vectors.contracts.serving(collection.name, coming)
            return [(stand_in(pinned.dimensions), {**payload, PENDING_KEY: True}) for payload in payloads]
        if pinned not in known:
            texts = [point.text or "" for point in points]
            known[pinned] = await self._vectors.of_documents(
                ticket, collection.name, pinned, texts, share=EMBEDDING_SHARE
            )
        return list(zip(known[pinned], payloads, strict=True))

    def _aim(self, collection: Collection, *, is_by_id: bool) -> Aim:
        """Say where a search is to look: where the vectors are of the model that serves.

        Where none are, points may still be compared with each other. Raises `ContractMismatch`, `Unavailable`.
        """
        pinned, coming = collection.contract, collection.next_contract
        here = Aim(collection.place, pinned)
        if not isinstance(pinned, TextsContract) or self._vectors.serves(collection.name, pinned):
            return here
        if isinstance(coming, TextsContract):
            self._vectors.contracts.serving(collection.name, coming)
            return Aim(collection.next_place, coming, is_next=True)
        if not is_by_id:
            self._vectors.contracts.serving(collection.name, pinned)
        return here

    async def _query(self, ticket: Ticket, collection: Collection, aim: Aim, request: SearchRequest) -> Vector:
        if request.text is not None:
            if not isinstance(aim.contract, TextsContract):
                said = f"the collection {request.name!r} is one of {collection.record.kind}: send a vector or an id"
                raise InvalidRequest(said, param="text")
            return await self._vectors.of_query(ticket, request.name, aim.contract, request.text)
        if request.vector is not None:
            return read_point_vector(request.vector, aim.contract, "vector")
        assert request.id is not None
        found = await self._store.get(aim.place, [stored_id(request.id)], with_vectors=True)
        if not found or found[0].vector is None:
            raise NotFound(f"there is no point {request.id!r} in the collection {request.name!r}", param="id")
        return found[0].vector

    async def _hits(self, aim: Aim, vector: Vector, request: SearchRequest) -> list[Hit]:
        own = None if request.id is None else stored_id(request.id)
        limit = request.limit if own is None else request.limit + 1
        hits = await self._store.search(
            aim.place, vector, limit=limit, only=request.filter, with_vectors=request.with_vectors
        )
        hits = [hit for hit in hits if hit.id != own][: request.limit]
        bound = request.score_threshold
        if bound is None:
            return hits
        if aim.contract.metric == "euclidean":
            return [hit for hit in hits if hit.score <= bound]
        return [hit for hit in hits if hit.score >= bound]

    async def _moved(self, collection: Collection) -> float:
        total = await self._store.count(collection.place)
        arrived = await self._store.count(collection.next_place)
        return 1.0 if total == 0 else min(1.0, arrived / total)


def _check_kind(collection: Collection, points: Sequence[NewPoint]) -> None:
    kind = collection.record.kind
    if kind == "faces":
        raise Conflict(f"the collection {collection.name!r} is one of faces: enrol images instead")
    check_points(points, are_texts=kind == "texts")


def _id_of(collection: Collection, point: NewPoint) -> PointId:
    """Return the id that the caller knows a point by: its own, a UUID in lower case, or one by its content."""
    if point.id is not None:
        known = stored_id(point.id)
        return known if known == str(point.id).lower() else point.id
    content = np.asarray(point.vector, "<f8").tobytes() if point.text is None else point.text.encode()
    return content_id(collection.organisation, collection.record.kind, content)
