"""Protocol buffers' descriptors made from contract structs, for rows that have no proto file of ours: those from outside.

A field's number is its place in the struct, so a struct of a plug-in grows at its end.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto

from phalanx.edges.grpc.shapes import FieldShape, Map, Message, OneOf, Repeated, Scalar, Shape, Special, fields_of
from phalanx.operations import Kind, Operation

COMMON = "phalanx/v1/common.proto"
STRUCT = "google/protobuf/struct.proto"

_TYPES = {
    "string": FieldDescriptorProto.TYPE_STRING, "int": FieldDescriptorProto.TYPE_INT64,
    "float": FieldDescriptorProto.TYPE_DOUBLE, "bool": FieldDescriptorProto.TYPE_BOOL,
    "bytes": FieldDescriptorProto.TYPE_BYTES,
}  # fmt: skip
_MESSAGES = {
    "Embedding": ".phalanx.v1.Embedding", "Matrix": ".phalanx.v1.Matrix", "Image": ".phalanx.v1.Image",
    "JsonObject": ".google.protobuf.Struct", "Json": ".google.protobuf.Value",
}  # fmt: skip


def derive_file(service: str, rows: Iterable[Operation]) -> FileDescriptorProto:
    """Return the file of one service, `package.Service`, with every message that its rows need.

    Raises `CannotDescribe` for a field without a form, and `ValueError` when two structs share a name.
    """
    package, _, name = service.rpartition(".")
    file = FileDescriptorProto(
        name=service.replace(".", "/") + ".proto", package=package, syntax="proto3", dependency=[COMMON, STRUCT]
    )
    messages = _Messages(file)
    into = file.service.add(name=name)
    for row in rows:
        assert row.grpc is not None
        into.method.add(
            name=row.grpc.rpartition("/")[2], input_type=messages.of(row.request),
            output_type=messages.of(row.response), client_streaming=row.kind is Kind.CLIENT_STREAM,
            server_streaming=row.kind is not Kind.UNARY,
        )  # fmt: skip
    return file


class _Messages:
    """The messages of a file, each struct once."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self._file = file
        self._known: dict[str, type[msgspec.Struct]] = {}

    def of(self, struct: type[msgspec.Struct]) -> str:
        """Return the full name of a struct's message, after making it if need be."""
        name = struct.__name__
        full = f".{self._file.package}.{name}"
        if name == self._file.service[0].name:
            raise ValueError(f"the service {full[1:]} and the struct {name} have one name; rename one")
        known = self._known.setdefault(name, struct)
        if known is not struct:
            raise ValueError(f"two structs of the package {self._file.package} are called {name}; rename one")
        if not any(message.name == name for message in self._file.message_type):
            message = self._file.message_type.add(name=name)
            for number, field in enumerate(fields_of(struct), 1):
                self._add(message, full, number, field)
            for field_proto in message.field:
                # After the unions that are asked for, as the format wants it.
                if field_proto.proto3_optional:
                    field_proto.oneof_index = len(message.oneof_decl)
                    message.oneof_decl.add(name=f"_{field_proto.name}")
        return full

    def _add(self, message: DescriptorProto, full: str, number: int, field: FieldShape) -> None:
        proto = message.field.add(name=field.name, number=number, label=FieldDescriptorProto.LABEL_OPTIONAL)
        shape = field.shape
        if isinstance(shape, Map):
            self._map(proto, message, full, shape)
            return
        if shape == Special("Scores"):
            proto.label, proto.type = FieldDescriptorProto.LABEL_REPEATED, FieldDescriptorProto.TYPE_FLOAT
            return
        if isinstance(shape, Repeated):
            proto.label, shape = FieldDescriptorProto.LABEL_REPEATED, shape.item
        self._type(proto, message, full, shape)
        proto.proto3_optional = field.optional and isinstance(shape, Scalar)

    def _type(self, proto: FieldDescriptorProto, message: DescriptorProto, full: str, shape: Shape) -> None:
        """Give a field the type of a single value; what has none gets a message inside of `message`."""
        if isinstance(shape, Scalar):
            proto.type = _TYPES[shape.kind]
            return
        proto.type = FieldDescriptorProto.TYPE_MESSAGE
        if isinstance(shape, Message):
            proto.type_name = self.of(shape.struct)
        elif isinstance(shape, Special):
            proto.type_name = _MESSAGES[shape.name]
        else:
            inner = message.nested_type.add(name="".join(part.capitalize() for part in proto.name.split("_")) + "Form")
            proto.type_name = f"{full}.{inner.name}"
            if isinstance(shape, OneOf):
                self._choices(inner, proto.type_name, shape)
            elif isinstance(shape, Repeated):
                self._add(inner, proto.type_name, 1, FieldShape("items", "", shape, optional=False, has_default=False))

    def _choices(self, inner: DescriptorProto, full: str, shape: OneOf) -> None:
        inner.oneof_decl.add(name="form")
        for number, option in enumerate(shape.options, 1):
            name = option.kind if isinstance(option, Scalar) else f"form{number}"
            choice = inner.field.add(
                name=name, number=number, label=FieldDescriptorProto.LABEL_OPTIONAL, oneof_index=0
            )  # fmt: skip
            self._type(choice, inner, full, option)

    def _map(self, proto: FieldDescriptorProto, message: DescriptorProto, full: str, shape: Map) -> None:
        entry = message.nested_type.add(name="".join(part.capitalize() for part in proto.name.split("_")) + "Entry")
        entry.options.map_entry = True
        entry.field.add(
            name="key", number=1, label=FieldDescriptorProto.LABEL_OPTIONAL, type=FieldDescriptorProto.TYPE_STRING
        )
        value = entry.field.add(name="value", number=2, label=FieldDescriptorProto.LABEL_OPTIONAL)
        self._type(value, message, full, shape.value)
        proto.label, proto.type = FieldDescriptorProto.LABEL_REPEATED, FieldDescriptorProto.TYPE_MESSAGE
        proto.type_name = f"{full}.{entry.name}"
