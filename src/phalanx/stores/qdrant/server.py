"""Vectors on a Qdrant server, over gRPC."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import grpc
from qdrant_client import grpc as qdrant

from phalanx.contract.collections import Filter
from phalanx.contract.vector import Vector
from phalanx.errors import Conflict, InvalidRequest, NotFound, Unavailable
from phalanx.ports import Distance, Hit, Point
from phalanx.stores.points import check_filter, check_id, check_place, check_points, check_vector
from phalanx.stores.qdrant.messages import (
    PAYLOAD_TOO,
    dense_of,
    filter_of,
    hit_of,
    ids_of,
    point_of,
    struct_of,
    vectors_too,
)
from phalanx.stores.qdrant.stored import behind, path_of, tallied, unit_rows

PREFIX = "phalanx_"
"""What our collections' names begin with on a server that others may use too."""
GRPC_PORT, REST_PORT = 6334, 6333
READ_TIMEOUT_S, WRITE_TIMEOUT_S, SHAPE_TIMEOUT_S = 5.0, 20.0, 60.0
"""How long the server is given to find, to keep, and to make or drop a collection, in seconds."""
PAUSES_S = (0.05, 0.2, 0.5)
"""Before a call is tried again that found no server. Every call may be: done twice, it leaves what it leaves done once."""
SEARCH_WIDTH = 128
INDEX_FROM_KB = 10_000
DISTANCES: dict[Distance, int] = {"cosine": qdrant.Cosine, "euclidean": qdrant.Euclid, "dot": qdrant.Dot}
OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]
_NAMES = re.compile(r'"[^"]*"|[^."]+')
REASONS = {
    grpc.StatusCode.UNAVAILABLE: "it cannot be reached",
    grpc.StatusCode.DEADLINE_EXCEEDED: "it did not answer in time",
    grpc.StatusCode.UNAUTHENTICATED: "it refused the credentials",
    grpc.StatusCode.PERMISSION_DENIED: "it refused the credentials",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "it has no room",
}


class Address(NamedTuple):
    """Where a server is: `host:port` of its gRPC, whether it speaks TLS, the key it wants."""

    target: str
    is_tls: bool
    api_key: str


class _Shape(NamedTuple):
    dimensions: int
    distance: Distance
    indexed: frozenset[str]


def address_of(url: str, api_key: str = "") -> Address:
    """Read a server's URL: `http://host`, `https://key@host:port`. The port of its REST stands for that of its gRPC."""
    parts = urlsplit(url)
    port = parts.port or REST_PORT
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    key = api_key or unquote(parts.password or parts.username or "")
    return Address(f"{host}:{GRPC_PORT if port == REST_PORT else port}", parts.scheme == "https", key)


class QdrantVectorStore:
    """A `VectorStore` on the server at `address`. It connects with the first call."""

    def __init__(self, address: Address) -> None:
        credentials = grpc.ssl_channel_credentials()
        target, options = address.target, OPTIONS
        self._channel = (
            grpc.aio.secure_channel(target, credentials, options)
            if address.is_tls
            else grpc.aio.insecure_channel(target, options)
        )
        self._metadata = (("api-key", address.api_key),) if address.api_key else ()
        self._points = qdrant.PointsStub(self._channel)
        self._collections = qdrant.CollectionsStub(self._channel)
        self._server = qdrant.QdrantStub(self._channel)
        self._shapes: dict[str, _Shape] = {}

    async def create(self, place: str, *, dimensions: int, distance: Distance, indexed: Sequence[str] = ()) -> None:
        """Make a place, if it is not there. Raises `Conflict`, `InvalidRequest`, `Unavailable`."""
        check_place(place, dimensions)
        self._shapes.pop(place, None)
        try:
            shape = await self._shape(place)
        except NotFound:
            await self._make(place, dimensions, distance)
            shape = await self._shape(place)
        if (shape.dimensions, shape.distance) != (dimensions, distance):
            raise Conflict(f"the place is there, with {shape.dimensions:,} dimensions and {shape.distance}")
        for key in indexed:
            if path_of(key) not in shape.indexed:
                request = qdrant.CreateFieldIndexCollection(
                    collection_name=PREFIX + place, wait=True, field_name=path_of(key),
                    field_type=qdrant.FieldTypeKeyword,
                )  # fmt: skip
                await self._ask(self._points.CreateFieldIndex, request, SHAPE_TIMEOUT_S)
        self._shapes.pop(place, None)

    async def drop(self, place: str) -> bool:
        """Do away with a place. Returns whether it was there. Raises `Unavailable`."""
        self._shapes.pop(place, None)
        request = qdrant.DeleteCollection(collection_name=PREFIX + place, timeout=int(SHAPE_TIMEOUT_S))
        try:
            return bool((await self._ask(self._collections.Delete, request, SHAPE_TIMEOUT_S)).result)
        except NotFound:
            return False

    async def places(self) -> list[str]:
        """Return the names of all places, in order. Raises `Unavailable`."""
        answer = await self._ask(self._collections.List, qdrant.ListCollectionsRequest(), READ_TIMEOUT_S)
        names = [collection.name for collection in answer.collections]
        return sorted(name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX))

    async def upsert(self, place: str, points: Sequence[Point]) -> None:
        """Keep points, each instead of the one of its id. Raises `NotFound`, `InvalidRequest`, `Unavailable`."""
        shape = await self._shape(place)
        units, lengths = unit_rows(check_points(points, shape.dimensions, shape.distance), shape.distance)
        structs = [struct_of(*each) for each in zip(points, units, lengths, strict=True)]
        if structs:
            request = qdrant.UpsertPoints(collection_name=PREFIX + place, wait=True, points=structs)
            await self._of(place, self._points.Upsert, request, WRITE_TIMEOUT_S)

    async def delete(self, place: str, ids: Sequence[str]) -> None:
        """Delete points by their ids. Raises `NotFound`, `InvalidRequest`, `Unavailable`."""
        named = qdrant.PointsIdsList(ids=ids_of(map(check_id, ids)))
        await self._delete(place, qdrant.PointsSelector(points=named))

    async def delete_where(self, place: str, only: Filter, *, erase: bool = False) -> None:
        """Delete all points that a filter lets through; the server's optimiser erases them in its time. Raises `NotFound`, `InvalidRequest`, `Unavailable`."""
        check_filter(only)
        await self._delete(place, qdrant.PointsSelector(filter=filter_of(only)))

    async def get(self, place: str, ids: Sequence[str], *, with_vectors: bool = False) -> list[Point]:
        """Return the points that are there, in the order of `ids`. Raises `NotFound`, `InvalidRequest`, `Unavailable`."""
        request = qdrant.GetPoints(
            collection_name=PREFIX + place, ids=ids_of(dict.fromkeys(map(check_id, ids))), with_payload=PAYLOAD_TOO,
            with_vectors=vectors_too(with_vectors),
        )  # fmt: skip
        answer = await self._of(place, self._points.Get, request, READ_TIMEOUT_S)
        found = {record.id.uuid: point_of(record, with_vectors=with_vectors) for record in answer.result}
        return [found[name] for name in ids if name in found]

    async def search(
        self, place: str, vector: Vector, *, limit: int, only: Filter | None = None, with_vectors: bool = False
    ) -> list[Hit]:
        """Return the nearest points, nearest first. Raises `NotFound`, `InvalidRequest`, `Unavailable`."""
        check_filter(only)
        shape = await self._shape(place)
        units, _ = unit_rows(check_vector(vector, shape.dimensions, shape.distance)[None], shape.distance)
        nearest = qdrant.Query(nearest=qdrant.VectorInput(dense=dense_of(units[0])))
        request = qdrant.QueryPoints(
            collection_name=PREFIX + place, query=nearest, limit=limit, filter=filter_of(only), with_payload=PAYLOAD_TOO,
            with_vectors=vectors_too(with_vectors), params=qdrant.SearchParams(hnsw_ef=max(SEARCH_WIDTH, 2 * limit)),
        )  # fmt: skip
        answer = await self._of(place, self._points.Query, request, READ_TIMEOUT_S)
        return [hit_of(scored, with_vectors=with_vectors) for scored in answer.result]

    async def scroll(
        self,
        place: str,
        *,
        after: str | None = None,
        limit: int,
        only: Filter | None = None,
        with_vectors: bool = False,
    ) -> list[Point]:
        """Return points in the order of their ids. Raises `NotFound`, `InvalidRequest`, `Unavailable`."""
        check_filter(only)
        start = None
        if after is not None and (start := behind(check_id(after))) is None:
            return []
        request = qdrant.ScrollPoints(
            collection_name=PREFIX + place, limit=limit, filter=filter_of(only), with_payload=PAYLOAD_TOO,
            with_vectors=vectors_too(with_vectors), offset=None if start is None else qdrant.PointId(uuid=start),
        )  # fmt: skip
        answer = await self._of(place, self._points.Scroll, request, READ_TIMEOUT_S)
        return [point_of(record, with_vectors=with_vectors) for record in answer.result]

    async def count(self, place: str, only: Filter | None = None) -> int:
        """Count points, exactly. Raises `NotFound`, `InvalidRequest`, `Unavailable`."""
        check_filter(only)
        request = qdrant.CountPoints(collection_name=PREFIX + place, filter=filter_of(only), exact=True)
        return int((await self._of(place, self._points.Count, request, READ_TIMEOUT_S)).result.count)

    async def tally(self, place: str, key: str, *, limit: int, only: Filter | None = None) -> list[tuple[str, int]]:
        """Count the points of each value of an indexed key. Raises `NotFound`, `InvalidRequest`, `Unavailable`."""
        check_filter(only)
        if path_of(key) not in (await self._shape(place)).indexed:
            # Another worker may have indexed it since.
            self._shapes.pop(place, None)
            if path_of(key) not in (await self._shape(place)).indexed:
                raise InvalidRequest(f"the key {key!r} is not indexed")
        request = qdrant.FacetCounts(
            collection_name=PREFIX + place, key=path_of(key), limit=limit + 2, exact=True, filter=filter_of(only)
        )
        answer = await self._of(place, self._points.Facet, request, READ_TIMEOUT_S)
        return tallied(((hit.value.string_value, hit.count) for hit in answer.hits), limit)

    async def ping(self) -> None:
        """Return when the server answers. Raises `Unavailable`."""
        await self._ask(self._server.HealthCheck, qdrant.HealthCheckRequest(), READ_TIMEOUT_S)

    async def close(self) -> None:
        """Let go of the connection."""
        await self._channel.close()

    async def _make(self, place: str, dimensions: int, distance: Distance) -> None:
        request = qdrant.CreateCollection(
            collection_name=PREFIX + place,
            vectors_config=qdrant.VectorsConfig(
                params=qdrant.VectorParams(size=dimensions, distance=DISTANCES[distance])
            ),
            optimizers_config=qdrant.OptimizersConfigDiff(indexing_threshold=INDEX_FROM_KB),
            timeout=int(SHAPE_TIMEOUT_S),
        )  # fmt: skip
        try:
            await self._ask(self._collections.Create, request, SHAPE_TIMEOUT_S)
        except Conflict:
            # Another worker was quicker; whether it made the same is looked at next.
            return

    async def _delete(self, place: str, selected: Any) -> None:
        request = qdrant.DeletePoints(collection_name=PREFIX + place, wait=True, points=selected)
        await self._of(place, self._points.Delete, request, WRITE_TIMEOUT_S)

    async def _shape(self, place: str) -> _Shape:
        """Return what a place was made with. It is asked for once: no place changes what it was made with."""
        known = self._shapes.get(place)
        if known is not None:
            return known
        request = qdrant.GetCollectionInfoRequest(collection_name=PREFIX + place)
        info = (await self._ask(self._collections.Get, request, READ_TIMEOUT_S)).result
        params = info.config.params.vectors_config.params
        distance = next((name for name, number in DISTANCES.items() if number == params.distance), None)
        if distance is None:
            raise Unavailable("Qdrant cannot be used: a collection was made by somebody else")
        self._shapes[place] = shape = _Shape(params.size, distance, frozenset(map(_plain, info.payload_schema)))
        return shape

    async def _of(self, place: str, method: Any, request: Any, timeout_s: float) -> Any:
        """Ask about a place; one that another worker dropped is not remembered."""
        try:
            return await self._ask(method, request, timeout_s)
        except (NotFound, InvalidRequest):
            self._shapes.pop(place, None)
            raise

    async def _ask(self, method: Any, request: Any, timeout_s: float) -> Any:
        for pause_s in (*PAUSES_S, None):
            try:
                return await method(request, timeout=timeout_s, metadata=self._metadata)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNAVAILABLE and pause_s is not None:
                    await asyncio.sleep(pause_s)
                    continue
                raise _failure(error) from None
            except grpc.aio.UsageError:
                raise Unavailable("the store of the vectors is closed") from None
        raise AssertionError("unreachable")


def _plain(path: str) -> str:
    """Return a path as `path_of` writes it: the server leaves quotes out where it can."""
    first, *names = _NAMES.findall(path)
    return ".".join([first, *(f'"{name.strip(chr(34))}"' for name in names)])


def _failure(error: grpc.aio.AioRpcError) -> Exception:
    """Return what to raise; it names the reason, but no host, collection or secret."""
    code, said = error.code(), (error.details() or "").lower()
    if code is grpc.StatusCode.NOT_FOUND:
        return NotFound("there is no such place of vectors")
    if code is grpc.StatusCode.ALREADY_EXISTS or "already exists" in said:
        return Conflict("the place is there already")
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return InvalidRequest("Qdrant refused the call")
    return Unavailable(f"Qdrant cannot be used: {REASONS.get(code, 'it failed')}")
