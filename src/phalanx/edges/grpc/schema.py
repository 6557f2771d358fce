"""Services, messages and rows brought together: what `proto/` declares, and what is derived for rows from outside."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import msgspec
from google.protobuf import struct_pb2
from google.protobuf.descriptor import Descriptor, MethodDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as ProtoMessage
from google.protobuf.message_factory import GetMessageClass

from phalanx.edges.grpc.derive import derive_file
from phalanx.edges.grpc.shapes import SchemaMismatch
from phalanx.edges.grpc.specials import packed_as_bytes
from phalanx.edges.grpc.translation import Translator
from phalanx.edges.json_body import invalid
from phalanx.errors import InvalidRequest
from phalanx.operations import Kind, Operation

PACKAGE = "phalanx.v1"
PLUGINS = "phalanx.plugins"
SCHEMA = "schema.binpb"
"""The descriptors of `proto/`, which the build puts beside this module."""


class SchemaNotBuilt(RuntimeError):
    """The file that the build makes of `proto/` is not there."""


@dataclass(frozen=True)
class Method:
    """A row as a method: its path, `/package.Service/Name`, and how its messages are read and written.

    `read` raises `InvalidRequest`. `request_of` and `response_of` are what a client does: a struct to bytes, bytes to a
    struct.
    """

    path: str
    read: Callable[[bytes], Any]
    write: Callable[[Any], bytes]
    request_of: Callable[[Any], bytes]
    response_of: Callable[[bytes], Any]

    @property
    def service(self) -> str:
        """The full name of its service."""
        return self.path[1:].partition("/")[0]


class Schema:
    """The methods of all rows that name one, by the row's name. Raises `SchemaMismatch` when the two have drifted apart.

    `pool` has every descriptor, for reflection.
    """

    def __init__(self, operations: Mapping[str, Operation], descriptors: bytes | None = None) -> None:
        declared = FileDescriptorSet.FromString(load_descriptors() if descriptors is None else descriptors)
        self.pool, self._packed = DescriptorPool(), DescriptorPool()
        for file in _with_struct(declared):
            self._add(file)
        for service, rows in _undeclared(declared, operations.values()).items():
            self._add(derive_file(service, rows))
        self._read, self._write = Translator(), Translator()
        self.methods: dict[str, Method] = {}
        for row in operations.values():
            if row.grpc is not None:
                self.methods[row.name] = self._bind(row)

    def _add(self, file: FileDescriptorProto) -> None:
        self.pool.AddSerializedFile(file.SerializeToString())
        self._packed.AddSerializedFile(packed_as_bytes(file).SerializeToString())

    def _bind(self, row: Operation) -> Method:
        service, name = self._place(row)
        method: MethodDescriptor = self.pool.FindServiceByName(service).methods_by_name[name]
        streams = (method.client_streaming, method.server_streaming)
        if streams != (row.kind is Kind.CLIENT_STREAM, row.kind is not Kind.UNARY):
            raise SchemaMismatch(f"{service}/{name} streams otherwise than the row {row.name}, {row.kind.value}")
        for message, struct in ((method.input_type, row.request), (method.output_type, row.response)):
            if message.name != struct.__name__:
                raise SchemaMismatch(
                    f"{service}/{name} has {message.name} where the row {row.name} has {struct.__name__}"
                )
        asked, packed = (
            self._packed.FindMessageTypeByName(message.full_name) for message in (method.input_type, method.output_type)
        )
        # Bound for the sake of the check: the packed form hides what a vector's field is declared as.
        self._read.reader(method.output_type, row.response)
        return Method(
            f"/{service}/{name}",
            read=_reader(method.input_type, self._read.reader(method.input_type, row.request)),
            write=_writer(packed, self._write.writer(packed, row.response)),
            request_of=_writer(asked, self._write.writer(asked, row.request)),
            response_of=_reader(packed, self._write.reader(packed, row.response)),
        )

    def _place(self, row: Operation) -> tuple[str, str]:
        """Return the full name of a row's service and its method's name; the derived ones are in another package."""
        assert row.grpc is not None
        service, _, name = row.grpc.rpartition("/")
        for full in (f"{PACKAGE}.{service}", derived_service(row)):
            try:
                found = self.pool.FindServiceByName(full)
            except KeyError:
                continue
            if name in found.methods_by_name:
                return full, name
        raise SchemaMismatch(f"the row {row.name} has no rpc {row.grpc}")


def load_descriptors() -> bytes:
    """Return what `proto/` was built into. Raises `SchemaNotBuilt`."""
    try:
        return files("phalanx.edges.grpc").joinpath(SCHEMA).read_bytes()
    except FileNotFoundError:
        raise SchemaNotBuilt("the gRPC services were not built; run `make run`, or install the package again") from None


def derived_service(row: Operation) -> str:
    """Return the full name of the service that a row from outside is in: `Example/Echo` is in `phalanx.plugins.example.Example`.

    A `grpc` with a package of its own, `acme.v1.Example/Echo`, keeps it.
    """
    assert row.grpc is not None
    service = row.grpc.rpartition("/")[0]
    return service if "." in service else f"{PLUGINS}.{service.lower()}.{service}"


def _with_struct(declared: FileDescriptorSet) -> list[FileDescriptorProto]:
    """Return the files in an order in which each follows what it needs, free JSON's before all."""
    struct = FileDescriptorProto.FromString(struct_pb2.DESCRIPTOR.serialized_pb)
    return [struct, *(file for file in declared.file if file.name != struct.name)]


def _undeclared(declared: FileDescriptorSet, rows: Iterable[Operation]) -> dict[str, list[Operation]]:
    """Return the rows that `proto/` has no method for, by the service that is to be derived for them."""
    there = {
        f"{service.name}/{method.name}"
        for file in declared.file if file.package == PACKAGE
        for service in file.service for method in service.method
    }  # fmt: skip
    found: dict[str, list[Operation]] = {}
    for row in rows:
        if row.grpc is not None and row.grpc not in there:
            found.setdefault(derived_service(row), []).append(row)
    return found


def _reader(message: Descriptor, read: Callable[[Any], Any]) -> Callable[[bytes], Any]:
    parse = GetMessageClass(message).FromString

    def decode(data: bytes) -> Any:
        try:
            sent = parse(data)
        except DecodeError:
            raise InvalidRequest(f"the message is no {message.full_name}", schema=message.full_name) from None
        _refuse_unknown(sent)
        try:
            return read(sent)
        except msgspec.ValidationError as error:
            raise invalid(error) from None

    return decode


def _refuse_unknown(message: ProtoMessage) -> None:
    """Raise `InvalidRequest` for fields that are not declared, or came with a wire type that is not theirs."""
    size = message.ByteSize()
    message.DiscardUnknownFields()
    surplus = size - message.ByteSize()
    if surplus:
        raise InvalidRequest(
            f"the message has {surplus} bytes of fields that {message.DESCRIPTOR.full_name} does not have, or that are of "
            "another type there",
            schema=message.DESCRIPTOR.full_name,
        )


def _writer(message: Descriptor, write: Callable[[Any, Any], None]) -> Callable[[Any], bytes]:
    make = GetMessageClass(message)

    def encode(value: Any) -> bytes:
        into = make()
        write(into, value)
        data: bytes = into.SerializeToString()
        return data

    return encode
