"""Contract structs to messages and back, field by field of the same name, worked out once when the edge starts.

Both ends are checked against each other as they are bound: a field that is missing on one side, of another type or with
another presence is a `SchemaMismatch`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import numpy as np
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from msgspec import UNSET

from phalanx.edges.grpc import specials
from phalanx.edges.grpc.matching import (
    choices,
    only_field,
    require_message,
    require_same,
    require_scalar,
)
from phalanx.edges.grpc.shapes import (
    FieldShape,
    Map,
    Message,
    OneOf,
    Repeated,
    Scalar,
    ScalarKind,
    Shape,
    Special,
    fields_of,
)
from phalanx.errors import InvalidRequest

Read = Callable[[Any], Any]
"""A message, or a value of a field, to what stands for it in a struct."""
Write = Callable[[Any, Any], None]
"""What stands in a struct into a message: `write(message, value)`."""


FLOAT = Scalar("float")


class Translator:
    """Reads and writes the messages of bound structs. One for all messages of a pool."""

    def __init__(self) -> None:
        self._bound: dict[tuple[str, type[msgspec.Struct]], _Bound] = {}

    def reader(self, message: Descriptor, struct: type[msgspec.Struct]) -> Callable[[Any], Any]:
        """Return what makes a struct of a message. Raises `SchemaMismatch`.

        The result raises `msgspec.ValidationError` and `InvalidRequest`.
        """
        bound = self._bind(message, struct)
        # msgspec cannot convert an array into rows of numbers, so arrays are put in place of none.
        arrays = frozenset(field.attribute for field in fields_of(struct) if _is_array(field.shape))

        def read(sent: Any) -> Any:
            fields = bound.read(sent)
            found = {name: value for name, value in fields.items() if isinstance(value, np.ndarray)} if arrays else None
            if not found:
                return msgspec.convert(fields, struct)
            names = {field.name: field.attribute for field in bound.fields}
            empty = msgspec.convert({**fields, **dict.fromkeys(found, ())}, struct)
            return msgspec.structs.replace(empty, **{names[name]: value for name, value in found.items()})

        return read

    def writer(self, message: Descriptor, struct: type[msgspec.Struct]) -> Write:
        """Return what fills a message from a struct. Raises `SchemaMismatch`."""
        bound = self._bind(message, struct)
        return bound.write

    def _bind(self, message: Descriptor, struct: type[msgspec.Struct]) -> _Bound:
        key = (message.full_name, struct)
        bound = self._bound.get(key)
        if bound is None:
            # Known before its fields are, so that a message may hold its own kind.
            bound = self._bound[key] = _Bound()
            bound.fields = fields_of(struct)
            by_name = dict(message.fields_by_name)
            require_same(message, bound.fields, by_name)
            bound.readers = [self._field_reader(by_name[field.name], field) for field in bound.fields]
            bound.writers = [
                (field.attribute, self._writer(by_name[field.name], field.shape)) for field in bound.fields
            ]
        return bound

    def _field_reader(self, proto: FieldDescriptor, field: FieldShape) -> Callable[[Any, dict[str, Any]], None]:
        """Return what puts a field of a message into the fields of a struct, unless it was left out."""
        name, read = field.name, self._reader(proto, field.shape)
        if field.optional:
            required = not field.has_default

            def put_if_there(message: Any, into: dict[str, Any]) -> None:
                if message.HasField(name):
                    into[name] = read(getattr(message, name))
                elif required:
                    raise InvalidRequest(f"the field {name} is missing", param=name)

            return put_if_there
        if isinstance(field.shape, Scalar):

            def put(message: Any, into: dict[str, Any]) -> None:
                into[name] = getattr(message, name)

            return put

        def put_unless_empty(message: Any, into: dict[str, Any]) -> None:
            value = getattr(message, name)
            if value or not field.has_default:
                into[name] = read(value)

        return put_unless_empty

    def _reader(self, proto: FieldDescriptor, shape: Shape) -> Read:
        """Return what reads the value of a field of that shape, whether it is one or many. Raises `SchemaMismatch`."""
        if isinstance(shape, Repeated):
            if isinstance(shape.item, Scalar):
                if shape.item == FLOAT and specials.is_packed_bytes(proto):
                    return specials.numbers
                require_scalar(proto, shape.item)
                return list
            read = self._single_reader(proto, shape.item)
            return lambda values: [read(value) for value in values]
        if isinstance(shape, Map):
            of_value = proto.message_type.fields_by_name["value"]
            read = self._single_reader(of_value, shape.value)
            return lambda values: {key: read(values[key]) for key in values}
        return self._single_reader(proto, shape)

    def _single_reader(self, proto: FieldDescriptor, shape: Shape) -> Read:
        if isinstance(shape, Scalar):
            require_scalar(proto, shape)
            return lambda value: value
        if isinstance(shape, Special):
            return specials.reader(proto, shape.name)
        require_message(proto, shape)
        if isinstance(shape, Message):
            bound = self._bind(proto.message_type, shape.struct)
            return bound.read
        if isinstance(shape, OneOf):
            return self._choice_reader(proto, shape)
        inner = only_field(proto.message_type)
        read = self._reader(inner, shape)
        return lambda value: read(getattr(value, inner.name))

    def _choice_reader(self, proto: FieldDescriptor, shape: OneOf) -> Read:
        found, name = choices(proto.message_type, shape), proto.name
        form = proto.message_type.oneofs[0].name
        readers = {field.name: self._option_reader(field, option) for field, option in found}

        def read(value: Any) -> Any:
            which = value.WhichOneof(form)
            if which is None:
                raise InvalidRequest(f"{name} has none of {', '.join(readers)}", param=name)
            return readers[which](getattr(value, which))

        return read

    def _option_reader(self, field: FieldDescriptor, option: Shape) -> Read:
        read = self._single_reader(field, option)
        config = option.struct.__struct_config__ if isinstance(option, Message) else None
        if config is None or config.tag is None:
            return read
        # By its tag msgspec knows which of a union's structs it is.
        tag = {config.tag_field: config.tag}
        return lambda value: {**tag, **read(value)}

    def _writer(self, proto: FieldDescriptor, shape: Shape) -> Write:
        """Return what sets a field of a message from a value that is not None."""
        name = proto.name
        if isinstance(shape, Scalar):
            return lambda message, value: setattr(message, name, value)
        if isinstance(shape, Repeated):
            if shape.item == FLOAT and specials.is_packed_bytes(proto):
                return specials.scores_writer(proto)
            if isinstance(shape.item, Scalar):
                return lambda message, value: getattr(message, name).extend(value)
            fill = self._filler(proto, shape.item)

            def add_all(message: Any, values: Iterable[Any]) -> None:
                add = getattr(message, name).add
                for value in values:
                    fill(add(), value)

            return add_all
        if isinstance(shape, Map):
            return self._map_writer(proto, shape)
        if shape == Special("Scores"):
            return specials.scores_writer(proto)
        return self._message_writer(proto, shape)

    def _message_writer(self, proto: FieldDescriptor, shape: Shape) -> Write:
        name, fill_one = proto.name, self._filler(proto, shape)

        def set_one(message: Any, value: Any) -> None:
            into = getattr(message, name)
            into.SetInParent()
            fill_one(into, value)

        return set_one

    def _map_writer(self, proto: FieldDescriptor, shape: Map) -> Write:
        name = proto.name
        if isinstance(shape.value, Scalar):
            return lambda message, value: getattr(message, name).update(value)
        fill = self._filler(proto.message_type.fields_by_name["value"], shape.value)

        def put_all(message: Any, values: dict[str, Any]) -> None:
            into = getattr(message, name)
            for key, value in values.items():
                fill(into[key], value)

        return put_all

    def _filler(self, proto: FieldDescriptor, shape: Shape) -> Write:
        """Return what fills the message of a field whose shape is no scalar."""
        if isinstance(shape, Special):
            return specials.filler(proto, shape.name)
        if isinstance(shape, Message):
            bound = self._bind(proto.message_type, shape.struct)
            return bound.write
        if isinstance(shape, OneOf):
            return self._choice_filler(proto, shape)
        inner = only_field(proto.message_type)
        return self._writer(inner, shape)

    def _choice_filler(self, proto: FieldDescriptor, shape: OneOf) -> Write:
        by_type: dict[type, Write] = {}
        for field, option in choices(proto.message_type, shape):
            write = self._writer(field, option) if isinstance(option, Scalar) else self._message_writer(field, option)
            for python in _python_types(option):
                by_type[python] = write

        return lambda message, value: by_type[type(value)](message, value)


_PYTHON: dict[ScalarKind, tuple[type, ...]] = {
    "string": (str,), "int": (int,), "float": (float,), "bool": (bool,), "bytes": (bytes,),
}  # fmt: skip


def _python_types(option: Shape) -> tuple[type, ...]:
    if isinstance(option, Scalar):
        return _PYTHON[option.kind]
    if isinstance(option, Message):
        return (option.struct,)
    if isinstance(option, Special):
        return (dict,) if option.name == "JsonObject" else (np.ndarray, list)
    return (list, tuple)


class _Bound:
    """A struct and its message, field by field."""

    __slots__ = ("fields", "readers", "writers")

    def __init__(self) -> None:
        self.fields: tuple[FieldShape, ...] = ()
        self.readers: list[Callable[[Any, dict[str, Any]], None]] = []
        self.writers: list[tuple[str, Write]] = []

    def read(self, message: Any) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for put in self.readers:
            put(message, fields)
        return fields

    def write(self, message: Any, struct: Any) -> None:
        for attribute, write in self.writers:
            value = getattr(struct, attribute)
            if value is not None and value is not UNSET:
                write(message, value)


def _is_array(shape: Shape) -> bool:
    return shape in (Special("Matrix"), Special("Scores"))
