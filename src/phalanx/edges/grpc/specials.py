"""Messages that stand for no struct: vectors, matrices, images, free JSON.

A packed `repeated float` is, on the wire, bytes of little-endian float32. Answers are written with messages in which such
fields are declared as bytes (`packed_as_bytes`), so that a vector is copied at once and not number by number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto

from phalanx.contract.vector import Vector
from phalanx.edges.grpc.shapes import SchemaMismatch
from phalanx.errors import InvalidRequest

_FULL_NAMES = {
    "Embedding": "phalanx.v1.Embedding", "Matrix": "phalanx.v1.Matrix", "Image": "phalanx.v1.Image",
    "JsonObject": "google.protobuf.Struct", "Json": "google.protobuf.Value",
}  # fmt: skip
MAX_EXACT = 2**53
"""Up to here a double holds every integer: JSON numbers in a Struct are doubles."""


def packed_as_bytes(file: FileDescriptorProto) -> FileDescriptorProto:
    """Return a copy of a file in which every `repeated float` is bytes."""
    copy = FileDescriptorProto()
    copy.CopyFrom(file)
    for message in copy.message_type:
        for field in message.field:
            if _is_packed(field):
                field.type, field.label = FieldDescriptorProto.TYPE_BYTES, FieldDescriptorProto.LABEL_OPTIONAL
    return copy


def _is_packed(field: FieldDescriptorProto) -> bool:
    return bool(field.label == FieldDescriptorProto.LABEL_REPEATED and field.type == FieldDescriptorProto.TYPE_FLOAT)


def is_packed_bytes(field: FieldDescriptor) -> bool:
    """Whether a field is bytes in place of the packed floats that its struct has."""
    return bool(field.type == FieldDescriptor.TYPE_BYTES and not field.is_repeated)


def reader(proto: FieldDescriptor, name: str) -> Callable[[Any], Any]:
    """Return what reads a special field. Raises `SchemaMismatch` when it is declared as something else."""
    _require(proto, name)
    return {
        "Embedding": _read_embedding, "Matrix": _read_matrix, "Image": _image_reader(proto.name), "Scores": _floats,
        "JsonObject": _read_object, "Json": _read_json,
    }[name]  # fmt: skip


def filler(proto: FieldDescriptor, name: str) -> Callable[[Any, Any], None]:
    """Return what fills a special message. Raises `SchemaMismatch` when it is declared as something else."""
    _require(proto, name)
    return {
        "Embedding": _fill_embedding, "Matrix": _fill_matrix, "Image": _fill_image,
        "JsonObject": _fill_object, "Json": _fill_json,
    }[name]  # fmt: skip


def scores_writer(proto: FieldDescriptor) -> Callable[[Any, Any], None]:
    """Return what sets a field of packed floats from an array."""
    name = proto.name
    return lambda message, value: put_floats(message, name, value)


def put_floats(message: Any, name: str, values: Any) -> None:
    """Set packed floats: at once where the field is declared as bytes, else number by number."""
    array = np.ascontiguousarray(values, dtype="<f4")
    field = getattr(message, name)
    if isinstance(field, bytes):
        setattr(message, name, array.tobytes())
    else:
        field.extend(array.ravel().tolist())


def numbers(values: Any) -> list[float]:
    """Return packed floats as Python's."""
    return list(_floats(values).tolist())


def _floats(values: Any) -> Vector:
    if isinstance(values, bytes):
        return np.frombuffer(values, dtype="<f4")
    return np.fromiter(values, dtype=np.float32, count=len(values))


def _read_embedding(message: Any) -> Any:
    if message.base64:
        return message.base64
    if message.int8:
        return np.frombuffer(message.int8, dtype=np.int8)
    if message.uint8:
        return np.frombuffer(message.uint8, dtype=np.uint8)
    return _floats(message.values) if message.values else None


def _fill_embedding(message: Any, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, str):
        message.base64 = value
    elif value.dtype == np.int8:
        message.int8 = value.tobytes()
    elif value.dtype == np.uint8:
        message.uint8 = value.tobytes()
    else:
        put_floats(message, "values", value)


def _read_matrix(message: Any) -> Vector:
    values = _floats(message.values)
    rows, columns = message.rows, message.columns
    if rows * columns != len(values):
        raise InvalidRequest(f"a matrix of {rows} rows and {columns} columns was sent with {len(values)} values")
    return values.reshape(rows, columns)


def _fill_matrix(message: Any, value: Any) -> None:
    if value is None:
        return
    matrix = np.asarray(value, dtype="<f4")
    message.rows, message.columns = matrix.shape if matrix.ndim == 2 else (len(matrix), 0)
    put_floats(message, "values", matrix)


def _image_reader(name: str) -> Callable[[Any], Any]:
    def read(message: Any) -> Any:
        which = message.WhichOneof("source")
        if which is None:
            raise InvalidRequest(f"{name} has none of data, text", param=name)
        return getattr(message, which)

    return read


def _fill_image(message: Any, value: Any) -> None:
    if isinstance(value, str):
        message.text = value
    else:
        message.data = bytes(value)


def _read_object(message: Any) -> dict[str, Any]:
    return {key: _read_json(value) for key, value in message.fields.items()}


def _read_json(message: Any) -> Any:
    which = message.WhichOneof("kind")
    if which == "struct_value":
        return _read_object(message.struct_value)
    if which == "list_value":
        return [_read_json(value) for value in message.list_value.values]
    if which is None or which == "null_value":
        return None
    value = getattr(message, which)
    if which == "number_value" and value.is_integer() and abs(value) <= MAX_EXACT:
        return int(value)
    return value


def _fill_object(message: Any, value: dict[str, Any]) -> None:
    for key, one in value.items():
        _fill_json(message.fields[key], one)


def _fill_json(message: Any, value: Any) -> None:
    if value is None:
        message.null_value = 0
    elif isinstance(value, bool):
        message.bool_value = value
    elif isinstance(value, int | float):
        message.number_value = value
    elif isinstance(value, str):
        message.string_value = value
    elif isinstance(value, dict):
        message.struct_value.SetInParent()
        _fill_object(message.struct_value, value)
    else:
        message.list_value.SetInParent()
        for one in value:
            _fill_json(message.list_value.values.add(), one)


def _require(proto: FieldDescriptor, name: str) -> None:
    if name == "Scores":
        if proto.type != FieldDescriptor.TYPE_FLOAT and not is_packed_bytes(proto):
            raise SchemaMismatch(f"{proto.full_name} must be repeated float")
    elif proto.message_type is None or proto.message_type.full_name != _FULL_NAMES[name]:
        raise SchemaMismatch(f"{proto.full_name} must be {_FULL_NAMES[name]}")
