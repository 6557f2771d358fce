"""What a contract struct looks like in protocol buffers: the one rule by which hand-written and derived messages are made.

- A struct is a message of its name; a field has the name that it has in JSON.
- A field has presence (`optional`, or by being a message) if it may be null or has a default other than zero, so that
  leaving it out and sending zero differ where that matters. Lists and maps have none: an empty one is one left out.
- A union is a message with one `oneof`; a list in a list, or in a union, a message with one repeated field.
- Vectors are packed float32: rows of numbers are a `Matrix`, which services get as an array, as from a binary body; the
  vector that an option may turn into integers is an `Embedding`. An image is an `Image`. Free JSON is a
  `google.protobuf.Struct` or `Value`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from msgspec import inspect

ScalarKind = Literal["string", "int", "float", "bool", "bytes"]

ZERO: dict[ScalarKind, Any] = {"string": "", "int": 0, "float": 0.0, "bool": False, "bytes": b""}


class CannotDescribe(TypeError):
    """A struct has a field that has no form in protocol buffers."""


class SchemaMismatch(TypeError):
    """A message and its struct have drifted apart."""


@dataclass(frozen=True)
class Scalar:
    """A string, number, flag or bytes."""

    kind: ScalarKind


@dataclass(frozen=True)
class Message:
    """A struct."""

    struct: type[msgspec.Struct]


@dataclass(frozen=True)
class Special:
    """What has a message of its own: `Embedding`, `Matrix`, `Image`, `Scores` (packed float32), free JSON."""

    name: Literal["Embedding", "Matrix", "Image", "Scores", "JsonObject", "Json"]


@dataclass(frozen=True)
class OneOf:
    """A union of shapes that JSON tells apart by their type."""

    options: tuple[Shape, ...]


@dataclass(frozen=True)
class Repeated:
    """A list. In a list or in a union it needs a message of its own."""

    item: Shape


@dataclass(frozen=True)
class Map:
    """An object with free keys and values of one shape."""

    value: Shape


Shape = Scalar | Message | Special | OneOf | Repeated | Map


@dataclass(frozen=True)
class FieldShape:
    """A field: `name` on the wire, `attribute` in Python; `optional` has presence; `has_default` may be left out."""

    name: str
    attribute: str
    shape: Shape
    optional: bool
    has_default: bool


def fields_of(struct: type[msgspec.Struct]) -> tuple[FieldShape, ...]:
    """Return the fields of a struct, in their order. Raises `CannotDescribe`."""
    described = inspect.type_info(struct)
    assert isinstance(described, inspect.StructType)
    found = []
    for field in described.fields:
        try:
            shape, nullable = _shape_of(field.type)
        except CannotDescribe as reason:
            raise CannotDescribe(f"{struct.__name__}.{field.name}: {reason}") from None
        found.append(FieldShape(
            field.encode_name, field.name, shape, optional=_has_presence(shape, field, nullable),
            has_default=not field.required,
        ))  # fmt: skip
    return tuple(found)


def _has_presence(shape: Shape, field: inspect.Field, nullable: bool) -> bool:
    if isinstance(shape, Repeated | Map) or shape == Special("Scores"):
        return False
    if not isinstance(shape, Scalar):
        return True
    return nullable or (not field.required and field.default != ZERO[shape.kind])


def _shape_of(kind: inspect.Type) -> tuple[Shape, bool]:
    """Return the shape of a type, and whether it may be null or left out."""
    if isinstance(kind, inspect.Metadata):
        if isinstance(kind.type, inspect.AnyType):
            return _special(kind.extra_json_schema or {}), False
        return _shape_of(kind.type)
    if isinstance(kind, inspect.UnionType):
        return _union(kind)
    return _plain(kind), False


def _union(kind: inspect.UnionType) -> tuple[Shape, bool]:
    options: list[Shape] = []
    nullable = False
    for one in kind.types:
        if isinstance(one, inspect.NoneType):
            nullable = True
            continue
        shape, _ = _shape_of(one)
        if shape not in options:
            options.append(shape)
    return (options[0] if len(options) == 1 else OneOf(tuple(options))), nullable or not options


_SCALARS: dict[type[inspect.Type], ScalarKind] = {
    inspect.StrType: "string", inspect.IntType: "int", inspect.FloatType: "float", inspect.BoolType: "bool",
    inspect.BytesType: "bytes",
}  # fmt: skip


def _plain(kind: inspect.Type) -> Shape:
    for scalar, name in _SCALARS.items():
        if isinstance(kind, scalar):
            return Scalar(name)
    if isinstance(kind, inspect.LiteralType):
        return Scalar("int" if all(isinstance(value, int) for value in kind.values) else "string")
    if isinstance(kind, inspect.StructType):
        return Message(kind.cls)
    if isinstance(kind, inspect.DictType):
        return _object(kind)
    if isinstance(kind, inspect.TupleType):
        items = {_shape_of(item)[0] for item in kind.item_types}
        if len(items) == 1:
            return Repeated(items.pop())
    if isinstance(kind, inspect.ListType | inspect.VarTupleType | inspect.SetType | inspect.FrozenSetType):
        item, _ = _shape_of(kind.item_type)
        is_rows = isinstance(kind.item_type, inspect.ListType) and item == Repeated(Scalar("float"))
        return Special("Matrix") if is_rows else Repeated(item)
    if isinstance(kind, inspect.AnyType):
        return Special("Json")
    raise CannotDescribe(f"{type(kind).__name__} has no form in protocol buffers")


def _object(kind: inspect.DictType) -> Shape:
    value, _ = _shape_of(kind.value_type)
    if not isinstance(kind.key_type, inspect.StrType):
        raise CannotDescribe("only objects whose keys are strings have a form in protocol buffers")
    if value == Special("Json"):
        return Special("JsonObject")
    if isinstance(value, Repeated | Map):
        raise CannotDescribe("lists and objects in an object have no form in protocol buffers")
    return Map(value)


def _special(schema: dict[str, Any]) -> Special:
    """Return what a field of type `Any` is, by the JSON Schema that its annotation gives it."""
    forms = [form for form in schema.get("oneOf", [schema]) if form.get("type") != "null"]
    arrays = [form for form in forms if form.get("type") == "array"]
    if not arrays:
        return Special("Image" if [form.get("type") for form in forms] == ["string"] else "Json")
    item = arrays[0].get("items", {})
    if len(forms) > 1:
        return Special("Embedding")
    if item.get("type") == "array":
        return Special("Matrix")
    return Special("Scores" if item.get("type") == "number" else "Json")
