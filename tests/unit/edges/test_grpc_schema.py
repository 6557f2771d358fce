"""The hand-written services and the table: a row, a method or a field that has drifted fails here."""

from __future__ import annotations

import dataclasses
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorSet
from msgspec import Meta, Struct

from phalanx.contract.vector import Embedding, Matrix
from phalanx.edges.grpc.derive import derive_file
from phalanx.edges.grpc.schema import PACKAGE, Schema, load_descriptors
from phalanx.edges.grpc.shapes import CannotDescribe, SchemaMismatch, fields_of
from phalanx.errors import InvalidRequest
from phalanx.operations import OPERATIONS, Kind, Operation, index

ROOT = Path(__file__).parents[3]
ROWS = index(OPERATIONS)


@pytest.fixture(scope="module")
def declared(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What `proto/` compiles to now."""
    into = tmp_path_factory.mktemp("schema") / "schema.binpb"
    runpy.run_path(str(ROOT / "hatch_build.py"))["compile_schema"](ROOT, into)
    compiled: bytes = into.read_bytes()
    return compiled


def methods(declared: bytes) -> set[str]:
    files = FileDescriptorSet.FromString(declared).file
    return {f"{service.name}/{method.name}" for file in files for service in file.service for method in service.method}


def test_the_built_schema_is_that_of_proto(declared: bytes) -> None:
    """Otherwise the other tests run on an old one."""
    assert load_descriptors() == declared, "run: python hatch_build.py"


def test_every_row_has_a_hand_written_method_and_every_method_a_row(declared: bytes) -> None:
    """Rows of this repository are not left to derived messages."""
    rows = {row.grpc for row in OPERATIONS}
    assert None not in rows
    assert sorted(str(name) for name in rows) == sorted(methods(declared))


def test_every_message_is_its_struct(declared: bytes) -> None:
    """Name, type and presence of every field, both ways; `Schema` refuses what differs."""
    schema = Schema(ROWS, declared)
    assert set(schema.methods) == set(ROWS)
    assert all(method.path.startswith(f"/{PACKAGE}.") for method in schema.methods.values())


def test_no_message_is_left_over(declared: bytes) -> None:
    """A message that no method needs is a struct that was renamed."""
    schema = Schema(ROWS, declared)
    needed: set[str] = set()

    def walk(message: Any) -> None:
        if message.full_name not in needed:
            needed.add(message.full_name)
            for field in message.fields:
                if field.message_type is not None:
                    walk(field.message_type)

    for row in ROWS.values():
        method = schema.pool.FindMethodByName(schema.methods[row.name].path[1:].replace("/", "."))
        walk(method.input_type)
        walk(method.output_type)
    files = [file for file in FileDescriptorSet.FromString(declared).file if file.package == PACKAGE]
    there = {f"{PACKAGE}.{message.name}" for file in files for message in file.message_type}
    assert there <= needed


Change = Callable[[DescriptorProto], None]


def _change(declared: bytes, message: str, change: Change) -> bytes:
    files = FileDescriptorSet.FromString(declared)
    for file in files.file:
        for one in file.message_type:
            if one.name == message:
                change(one)
    changed: bytes = files.SerializeToString()
    return changed


def _rename(message: DescriptorProto) -> None:
    message.field[0].name = "another"


def _add(message: DescriptorProto) -> None:
    message.field.add(name="more", number=99, type=FieldDescriptorProto.TYPE_STRING)


def _retype(message: DescriptorProto) -> None:
    message.field[2].type = FieldDescriptorProto.TYPE_STRING


def _forget_presence(message: DescriptorProto) -> None:
    del message.field[1:]
    del message.oneof_decl[:]
    for number, field in enumerate(fields_of(ROWS["text.embed"].request)[1:], 2):
        kinds = {"normalize": FieldDescriptorProto.TYPE_BOOL, "dimensions": FieldDescriptorProto.TYPE_INT32}
        message.field.add(name=field.name, number=number, type=kinds.get(field.name, FieldDescriptorProto.TYPE_STRING))


def _repeat(message: DescriptorProto) -> None:
    message.field[0].label = FieldDescriptorProto.LABEL_OPTIONAL


@pytest.mark.parametrize("change", [_rename, _add, _retype, _forget_presence, _repeat])
def test_a_field_that_has_drifted_is_refused(declared: bytes, change: Change) -> None:
    """Renamed, added, of another type, without presence, no longer repeated: said by name, at the start."""
    with pytest.raises(SchemaMismatch, match="EmbedRequest"):
        Schema({"text.embed": ROWS["text.embed"]}, _change(declared, "EmbedRequest", change))


def test_a_row_that_has_drifted_is_refused(declared: bytes) -> None:
    """Another kind, another struct."""
    row = ROWS["text.embed"]
    for drifted in (
        dataclasses.replace(row, kind=Kind.SERVER_STREAM),
        dataclasses.replace(row, request=ROWS["text.tokenize"].request),
    ):
        with pytest.raises(SchemaMismatch, match=r"text\.embed"):
            Schema({"text.embed": drifted}, declared)


class Inner(Struct):
    """A struct in a struct."""

    name: str


class WideRequest(Struct, kw_only=True):
    """Every shape there is."""

    text: str
    number: int = 7
    share: float | None = None
    flag: bool = False
    raw: bytes = b""
    words: list[str] = []
    pairs: list[tuple[float, float]] = []
    inner: Inner | None = None
    inners: dict[str, Inner] = {}
    counts: dict[str, int] = {}
    choice: str | int | list[int] | None = None
    choices: list[str | int] = []
    rows: list[list[float]] | None = None
    matrix: Matrix = None
    vector: Embedding = None
    free: dict[str, Any] = {}
    anything: Any = None
    bounded: Annotated[int, Meta(ge=0)] = 0


class Answer(Struct):
    """Nothing."""


def row_of(request: type[Struct], grpc: str = "Wide/Ask") -> Operation:
    return Operation(
        name="wide.ask",
        request=request,
        response=Answer,
        scope=None,
        http="POST /wide",
        grpc=grpc,
        run=print,
        summary="Ask.",
    )


def test_a_derived_message_carries_every_shape() -> None:
    """There and back, what was left out with its default."""
    method = Schema({"wide.ask": row_of(WideRequest)}).methods["wide.ask"]
    assert method.path == "/phalanx.plugins.wide.Wide/Ask"
    full = WideRequest(
        text="é", number=0, share=0.0, flag=True, raw=b"\0\xff", words=["a", ""], pairs=[(1.0, 2.0)], inner=Inner(""),
        inners={"x": Inner("y")}, counts={"n": 2**40}, choice=[1, 2], choices=["a", 1],
        free={"a": [1, 2.5, None, {"b": "c"}], "t": True}, anything=[1, "x"], bounded=3,
    )  # fmt: skip
    assert method.read(method.request_of(full)) == full
    assert method.read(method.request_of(WideRequest(text=""))) == WideRequest(text="")


def test_vectors_are_float32_on_the_other_side() -> None:
    """Rows of numbers become an array, with its shape."""
    method = Schema({"wide.ask": row_of(WideRequest)}).methods["wide.ask"]
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    there = method.read(method.request_of(WideRequest(text="", matrix=rows, rows=[[1.0], [2.0]], vector=rows[0])))
    assert there.matrix.tolist() == rows.tolist()
    assert (there.rows.dtype, there.rows.shape) == (np.float32, (2, 1))
    assert there.vector.tolist() == rows[0].tolist()
    for array in (np.array([1, -2], np.int8), np.array([1, 200], np.uint8)):
        assert method.read(method.request_of(WideRequest(text="", vector=array))).vector.dtype == array.dtype


def test_constraints_of_the_struct_hold() -> None:
    """Protocol buffers have no ranges; the struct has."""
    method = Schema({"wide.ask": row_of(WideRequest)}).methods["wide.ask"]
    with pytest.raises(InvalidRequest, match="bounded"):
        method.read(method.request_of(WideRequest(text="", bounded=-1)))


def test_a_row_may_name_a_package_of_its_own() -> None:
    """As in `acme.v1.Wide/Ask`."""
    assert Schema({"wide.ask": row_of(WideRequest, "acme.v1.Wide/Ask")}).methods["wide.ask"].path == "/acme.v1.Wide/Ask"


class Odd(Struct):
    """A field without a form."""

    pairs: tuple[str, int]


def test_a_struct_may_not_be_called_like_its_service() -> None:
    """Both would be one name in the package."""
    with pytest.raises(ValueError, match="one name"):
        derive_file("phalanx.plugins.odd.WideRequest", [row_of(WideRequest)])


def test_what_has_no_form_is_said() -> None:
    """At the start, with the field's name."""
    with pytest.raises(CannotDescribe, match=r"Odd\.pairs"):
        derive_file("phalanx.plugins.odd.Service", [row_of(Odd)])
