"""Payloads, vectors and filters in the messages of Qdrant's gRPC, in both directions."""

from __future__ import annotations

from typing import Any

import numpy as np
from qdrant_client import grpc as qdrant

from phalanx.contract.collections import Condition, Filter
from phalanx.contract.vector import Vector
from phalanx.ports import Hit, Point
from phalanx.stores.points import bounds
from phalanx.stores.qdrant.stored import from_stored, path_of, restored, stored_value, to_stored

PAYLOAD_TOO = qdrant.WithPayloadSelector(enable=True)


def struct_of(point: Point, unit: Vector, length: float | None) -> Any:
    """Return a point as Qdrant is to keep it."""
    stored = to_stored(point.payload, length)
    return qdrant.PointStruct(
        id=id_of(point.id),
        vectors=qdrant.Vectors(vector=qdrant.Vector(dense=dense_of(unit))),
        payload={name: value_of(value) for name, value in stored.items()},
    )


def point_of(record: Any, *, with_vectors: bool) -> Point:
    """Return what was retrieved, with the vector as the caller stored it."""
    payload, length = from_stored({name: read_value(value) for name, value in record.payload.items()})
    vector = restored(_read_vector(record), length) if with_vectors else None
    return Point(record.id.uuid, vector, payload)


def hit_of(scored: Any, *, with_vectors: bool) -> Hit:
    """Return what was found."""
    point = point_of(scored, with_vectors=with_vectors)
    return Hit(point.id, scored.score, point.payload, point.vector)


def id_of(name: str) -> Any:
    """Return a point's id."""
    return qdrant.PointId(uuid=name)


def ids_of(names: Any) -> list[Any]:
    """Return the ids of points."""
    return [id_of(name) for name in names]


def dense_of(unit: Vector) -> Any:
    """Return a vector."""
    return qdrant.DenseVector(data=unit.tolist())


def vectors_too(wanted: bool) -> Any:
    """Return whether vectors are asked for."""
    return qdrant.WithVectorsSelector(enable=wanted)


def value_of(value: Any) -> Any:
    """Return a JSON value."""
    if value is None:
        return qdrant.Value(null_value=0)
    if isinstance(value, str):
        return qdrant.Value(string_value=value)
    if isinstance(value, bool):
        return qdrant.Value(bool_value=value)
    if isinstance(value, int):
        return qdrant.Value(integer_value=value)
    if isinstance(value, float):
        return qdrant.Value(double_value=value)
    if isinstance(value, list):
        return qdrant.Value(list_value=qdrant.ListValue(values=[value_of(part) for part in value]))
    return qdrant.Value(struct_value=qdrant.Struct(fields={name: value_of(part) for name, part in value.items()}))


def read_value(value: Any) -> Any:
    """Return what `value_of` made a message of."""
    kind = value.WhichOneof("kind")
    if kind in (None, "null_value"):
        return None
    if kind == "list_value":
        return [read_value(part) for part in value.list_value.values]
    if kind == "struct_value":
        return {name: read_value(part) for name, part in value.struct_value.fields.items()}
    return getattr(value, kind)


def filter_of(only: Filter | None) -> Any:
    """Return a filter that was checked; an empty one lets everything through."""
    if only is None:
        return None
    return qdrant.Filter(
        must=[_condition(condition) for condition in only.must],
        must_not=[_condition(condition) for condition in only.must_not],
        should=[_condition(condition) for condition in only.should],
    )


def _condition(condition: Condition) -> Any:
    path, match = path_of(condition.key), condition.match
    if condition.range is not None:
        return _field(path, range=qdrant.Range(**bounds(condition.range)))
    assert match is not None
    wanted = [match.value] if isinstance(match.value, str | int) else match.any or []
    stored = [stored_value(word) for word in wanted if isinstance(word, str | int)]
    words = [word for word in stored if isinstance(word, str)]
    numbers = [word for word in stored if isinstance(word, int)]
    kinds = [_field(path, match=qdrant.Match(keywords=qdrant.RepeatedStrings(strings=words)))] if words else []
    if numbers:
        kinds.append(_field(path, match=qdrant.Match(integers=qdrant.RepeatedIntegers(integers=numbers))))
    return qdrant.Condition(filter=qdrant.Filter(should=kinds))


def _field(path: str, **test: Any) -> Any:
    return qdrant.Condition(field=qdrant.FieldCondition(key=path, **test))


def _read_vector(record: Any) -> Vector:
    vector = record.vectors.vector
    # Servers before 1.16 fill the field that is deprecated since.
    data = vector.dense.data if vector.HasField("dense") else vector.data
    return np.array(data, np.float32)
