"""Whether a message is its struct's, by the rule of `shapes`."""

from __future__ import annotations

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from phalanx.edges.grpc import specials
from phalanx.edges.grpc.shapes import (
    FieldShape,
    Map,
    Message,
    OneOf,
    Repeated,
    Scalar,
    ScalarKind,
    SchemaMismatch,
    Shape,
    Special,
)

KINDS: dict[int, ScalarKind] = {
    FieldDescriptor.TYPE_STRING: "string", FieldDescriptor.TYPE_BOOL: "bool", FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_FLOAT: "float", FieldDescriptor.TYPE_DOUBLE: "float",
    **dict.fromkeys(
        (
            FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT32,
            FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_SINT32, FieldDescriptor.TYPE_SINT64,
        ),
        "int",
    ),
}  # fmt: skip


def require_same(message: Descriptor, fields: tuple[FieldShape, ...], by_name: dict[str, FieldDescriptor]) -> None:
    """Raise `SchemaMismatch` when a message and a struct differ in the names, the number or the presence of fields."""
    names = {field.name for field in fields}
    lacking = [f"{message.full_name} lacks the field {name}" for name in sorted(names - set(by_name))]
    surplus = [f"{message.full_name}.{name} is in no struct" for name in sorted(set(by_name) - names)]
    if lacking or surplus:
        raise SchemaMismatch("; ".join(lacking + surplus))
    for field in fields:
        proto = by_name[field.name]
        many = isinstance(field.shape, Repeated | Map) or field.shape == Special("Scores")
        if proto.is_repeated != many and not specials.is_packed_bytes(proto):
            raise SchemaMismatch(f"{proto.full_name} must {'' if many else 'not '}be repeated")
        if proto.has_presence != field.optional and not many:
            raise SchemaMismatch(f"{proto.full_name} must {'' if field.optional else 'not '}have presence")


def require_scalar(proto: FieldDescriptor, shape: Scalar) -> None:
    """Raise `SchemaMismatch` when a field is not of the scalar kind that its struct has."""
    if KINDS.get(proto.type) != shape.kind:
        raise SchemaMismatch(f"{proto.full_name} is of another type than its struct's, {shape.kind}")


def require_message(proto: FieldDescriptor, shape: Shape) -> None:
    """Raise `SchemaMismatch` when a field is no message, or a struct's field not the message of its name."""
    if proto.message_type is None:
        raise SchemaMismatch(f"{proto.full_name} must be a message")
    if isinstance(shape, Message) and proto.message_type.name != shape.struct.__name__:
        raise SchemaMismatch(f"{proto.full_name} must be a {shape.struct.__name__}")


def only_field(message: Descriptor) -> FieldDescriptor:
    """Return the one field, repeated, of a message that stands for a list. Raises `SchemaMismatch`."""
    if len(message.fields) != 1 or not message.fields[0].is_repeated:
        raise SchemaMismatch(f"{message.full_name} stands for a list and must have one field, repeated")
    return message.fields[0]


def choices(message: Descriptor, shape: OneOf) -> list[tuple[FieldDescriptor, Shape]]:
    """Return the fields of a union's message, each with the option of the union that it is."""
    if len(message.oneofs) != 1 or len(message.oneofs[0].fields) != len(message.fields):
        raise SchemaMismatch(f"{message.full_name} stands for a union and must have one oneof and nothing else")
    left = list(shape.options)
    found = []
    for field in message.fields:
        option = next((one for one in left if _is_form_of(field, one)), None)
        if option is None:
            raise SchemaMismatch(f"{field.full_name} is none of the union's types")
        left.remove(option)
        found.append((field, option))
    if left:
        raise SchemaMismatch(f"{message.full_name} lacks a form for {left[0]}")
    return found


def _is_form_of(field: FieldDescriptor, option: Shape) -> bool:
    if isinstance(option, Scalar):
        return KINDS.get(field.type) == option.kind
    message = field.message_type
    if isinstance(option, Message):
        return message is not None and message.name == option.struct.__name__
    return message is not None
