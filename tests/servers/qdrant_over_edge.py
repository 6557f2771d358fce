"""NOT a Qdrant server: a stand-in that speaks Qdrant's own gRPC messages over real Edge shards.

Qdrant's server cannot be had where the tests run. Edge has its engine, so filters, scores, facets, scrolling and persistence are
those of Qdrant; routing, replication, authentication by roles, limits and the words of its errors are not. The tests run
against a real server too when PHALANX_TEST_QDRANT names one.

`python -m servers.qdrant_over_edge PORT FOLDER [API_KEY]`
"""

from __future__ import annotations

import json
import shutil
import sys
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from pathlib import Path
from typing import Any

import grpc
import qdrant_edge as edge
from qdrant_client import grpc as qdrant

from phalanx.stores.qdrant.messages import read_value, value_of

DISTANCES = {qdrant.Cosine: edge.Distance.Cosine, qdrant.Euclid: edge.Distance.Euclid, qdrant.Dot: edge.Distance.Dot}
DONE = qdrant.PointsOperationResponse(result=qdrant.UpdateResult(status=qdrant.Completed))


def worded(serve: Callable[[Any, Any, Any], Any]) -> Callable[[Any, Any, Any], Any]:
    """Say what fails as a status: the engine's own refusals are the caller's fault."""

    @wraps(serve)
    def answer(self: Any, request: Any, context: grpc.ServicerContext) -> Any:
        if self.shards.api_key and ("api-key", self.shards.api_key) not in context.invocation_metadata():
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "Must provide an API key")
        try:
            return serve(self, request, context)
        except KeyError:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Collection `{request.collection_name}` doesn't exist!")
        except FileExistsError:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, "Collection already exists!")
        except Exception as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))

    return answer


class Shards:
    """The collections: a folder of one shard each, with what it was made with."""

    def __init__(self, folder: Path, api_key: str) -> None:
        self.folder, self.api_key = folder, api_key
        self.open = {path.name: edge.EdgeShard.load(str(path / "shard")) for path in folder.glob("*") if path.is_dir()}

    def params(self, name: str) -> dict[str, int]:
        """What a collection was made with. Raises `KeyError`."""
        if name not in self.open:
            raise KeyError(name)
        params: dict[str, int] = json.loads((self.folder / name / "params.json").read_text())
        return params

    def make(self, name: str, size: int, distance: int) -> None:
        """Make a collection. Raises `FileExistsError`."""
        folder = self.folder / name
        folder.mkdir()
        (folder / "shard").mkdir()
        (folder / "params.json").write_text(json.dumps({"size": size, "distance": distance}))
        config = edge.EdgeConfig(vectors=edge.EdgeVectorParams(size=size, distance=DISTANCES[distance]))
        self.open[name] = edge.EdgeShard.create(str(folder / "shard"), config)

    def drop(self, name: str) -> bool:
        """Do away with a collection."""
        shard = self.open.pop(name, None)
        if shard is None:
            return False
        shard.close()
        shutil.rmtree(self.folder / name)
        return True


class Collections(qdrant.CollectionsServicer):  # type: ignore[misc]
    """Qdrant's service of collections."""

    def __init__(self, shards: Shards) -> None:
        self.shards = shards

    @worded
    def Get(self, request: Any, context: Any) -> Any:
        params = self.shards.params(request.collection_name)
        info = self.shards.open[request.collection_name].info()
        config = qdrant.CollectionConfig(
            params=qdrant.CollectionParams(vectors_config=qdrant.VectorsConfig(params=qdrant.VectorParams(**params)))
        )
        schema = {path: qdrant.PayloadSchemaInfo(data_type=qdrant.Keyword) for path in info.payload_schema}
        return qdrant.GetCollectionInfoResponse(result=qdrant.CollectionInfo(config=config, payload_schema=schema))

    @worded
    def List(self, request: Any, context: Any) -> Any:
        named = [qdrant.CollectionDescription(name=name) for name in [*self.shards.open, "of_somebody_else"]]
        return qdrant.ListCollectionsResponse(collections=named)

    @worded
    def Create(self, request: Any, context: Any) -> Any:
        params = request.vectors_config.params
        self.shards.make(request.collection_name, params.size, params.distance)
        return qdrant.CollectionOperationResponse(result=True)

    @worded
    def Delete(self, request: Any, context: Any) -> Any:
        return qdrant.CollectionOperationResponse(result=self.shards.drop(request.collection_name))


class Points(qdrant.PointsServicer):  # type: ignore[misc]
    """Qdrant's service of points."""

    def __init__(self, shards: Shards) -> None:
        self.shards = shards

    def _shard(self, request: Any) -> edge.EdgeShard:
        return self.shards.open[request.collection_name]

    @worded
    def Upsert(self, request: Any, context: Any) -> Any:
        points = [
            edge.Point(point.id.uuid, list(point.vectors.vector.dense.data), payload_of(point))
            for point in request.points
        ]
        self._shard(request).update(edge.UpdateOperation.upsert_points(points))
        return DONE

    @worded
    def Delete(self, request: Any, context: Any) -> Any:
        if request.points.WhichOneof("points_selector_one_of") == "filter":
            operation = edge.UpdateOperation.delete_points_by_filter(filter_of(request.points.filter))
        else:
            operation = edge.UpdateOperation.delete_points([point.uuid for point in request.points.points.ids])
        self._shard(request).update(operation)
        return DONE

    @worded
    def CreateFieldIndex(self, request: Any, context: Any) -> Any:
        keyword = edge.PayloadSchemaType.Keyword
        self._shard(request).update(edge.UpdateOperation.create_field_index(request.field_name, keyword))
        return DONE

    @worded
    def Get(self, request: Any, context: Any) -> Any:
        ids: list[Any] = [point.uuid for point in request.ids]
        records = self._shard(request).retrieve(ids, True, request.with_vectors.enable)
        return qdrant.GetResponse(result=[retrieved(record) for record in records])

    @worded
    def Scroll(self, request: Any, context: Any) -> Any:
        wanted = edge.ScrollRequest(
            offset=request.offset.uuid if request.HasField("offset") else None, limit=request.limit,
            filter=filter_of(request.filter), with_payload=True, with_vector=request.with_vectors.enable,
        )  # fmt: skip
        records, _ = self._shard(request).scroll(wanted)
        return qdrant.ScrollResponse(result=[retrieved(record) for record in records])

    @worded
    def Query(self, request: Any, context: Any) -> Any:
        wanted = edge.QueryRequest(
            request.limit, query=edge.Query.Nearest(list(request.query.nearest.dense.data)),
            filter=filter_of(request.filter), with_payload=True, with_vector=request.with_vectors.enable,
            params=edge.SearchParams(hnsw_ef=request.params.hnsw_ef),
        )  # fmt: skip
        hits = [qdrant.ScoredPoint(**fields(hit), score=hit.score) for hit in self._shard(request).query(wanted)]
        return qdrant.QueryResponse(result=hits)

    @worded
    def Count(self, request: Any, context: Any) -> Any:
        count = self._shard(request).count(edge.CountRequest(request.exact, filter_of(request.filter)))
        return qdrant.CountResponse(result=qdrant.CountResult(count=count))

    @worded
    def Facet(self, request: Any, context: Any) -> Any:
        wanted = edge.FacetRequest(request.key, request.limit, request.exact, filter_of(request.filter))
        hits = [
            qdrant.FacetHit(value=qdrant.FacetValue(string_value=hit.value), count=hit.count)
            for hit in self._shard(request).facet(wanted).hits
        ]
        return qdrant.FacetResponse(hits=hits)


class Health(qdrant.QdrantServicer):  # type: ignore[misc]
    """Qdrant's health check."""

    def HealthCheck(self, request: Any, context: Any) -> Any:
        return qdrant.HealthCheckReply(title="a stand-in over Qdrant Edge", version="0")


def payload_of(point: Any) -> dict[str, Any]:
    return {name: read_value(value) for name, value in point.payload.items()}


def fields(record: Any) -> dict[str, Any]:
    made = {
        "id": qdrant.PointId(uuid=str(uuid.UUID(str(record.id)))),
        "payload": {name: value_of(value) for name, value in (record.payload or {}).items()},
    }
    if record.vector is not None:
        dense = qdrant.VectorOutput(dense=qdrant.DenseVector(data=record.vector))
        made["vectors"] = qdrant.VectorsOutput(vector=dense)
    return made


def retrieved(record: Any) -> Any:
    return qdrant.RetrievedPoint(**fields(record))


def filter_of(only: Any) -> edge.Filter:
    return edge.Filter(
        must=[condition_of(condition) for condition in only.must] or None,
        must_not=[condition_of(condition) for condition in only.must_not] or None,
        should=[condition_of(condition) for condition in only.should] or None,
    )


def condition_of(condition: Any) -> Any:
    if condition.WhichOneof("condition_one_of") == "filter":
        return filter_of(condition.filter)
    field = condition.field
    if field.HasField("range"):
        limits = {name: getattr(field.range, name) for name in ("gt", "gte", "lt", "lte") if field.range.HasField(name)}
        return edge.FieldCondition(field.key, range=edge.RangeFloat(**limits))
    if field.match.WhichOneof("match_value") == "keywords":
        return edge.FieldCondition(field.key, match=edge.MatchAny(list(field.match.keywords.strings)))
    return edge.FieldCondition(field.key, match=edge.MatchAny(list(field.match.integers.integers)))


def main() -> None:
    """Serve until killed."""
    port, folder, *api_key = sys.argv[1:]
    shards = Shards(Path(folder), "".join(api_key))
    # One thread: the engine keeps the interpreter's lock anyway.
    server = grpc.server(ThreadPoolExecutor(1), options=[("grpc.max_receive_message_length", -1)])
    qdrant.add_CollectionsServicer_to_server(Collections(shards), server)
    qdrant.add_PointsServicer_to_server(Points(shards), server)
    qdrant.add_QdrantServicer_to_server(Health(), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
