"""Bytes to requests and answers to bytes, for every kind of body that a row may have over HTTP."""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import AsyncIterator, Iterable
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import numpy as np

from phalanx.edges.http.forms import MAX_FORM_FIELDS, read_form
from phalanx.edges.json_body import BodyDecoder, decode_json, invalid, too_large
from phalanx.errors import InvalidRequest, UnsupportedMediaType
from phalanx.operations import Body, Kind, Operation

JSON = "application/json"
NDJSON = "application/x-ndjson"
SSE = "text/event-stream"
OCTETS = "application/octet-stream"
VECTORS_HEADER = struct.Struct("<III")


def check_length(headers: dict[bytes, bytes], limit: int) -> None:
    """Refuse a body by its announced length, before any of it is read."""
    announced = headers.get(b"content-length")
    if announced is not None and announced.isdigit() and int(announced) > limit:
        raise too_large(int(announced), limit)


def check_encoding(headers: dict[bytes, bytes]) -> None:
    """Refuse a compressed body, which would be read as damaged JSON or as no image. Raises `UnsupportedMediaType`."""
    encoding = headers.get(b"content-encoding", b"").strip().lower()
    if encoding not in (b"", b"identity"):
        raise UnsupportedMediaType(
            f"the content encoding is {encoding.decode('latin-1')[:32]}; send the body as it is, not compressed"
        )


async def read_whole(chunks: AsyncIterator[bytes], limit: int) -> bytes:
    """Collect a body of at most `limit` bytes. Raises `TooLarge`."""
    parts: list[bytes] = []
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > limit:
            raise too_large(size, limit)
        parts.append(chunk)
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def read_lines(chunks: AsyncIterator[bytes], limit: int) -> AsyncIterator[bytes]:
    """Yield the lines of a body as they arrive, blank ones left out; one line may have `limit` bytes."""
    pending = bytearray()
    async for chunk in chunks:
        pending += chunk
        *lines, rest = pending.split(b"\n")
        pending = rest
        for line in lines:
            if line.strip():
                yield bytes(line)
        if len(pending) > limit:
            raise too_large(len(pending), limit)
    if pending.strip():
        yield bytes(pending)


def media_type(headers: dict[bytes, bytes]) -> str:
    """Return the body's content type without parameters, in lower case; empty when none was sent."""
    raw = headers.get(b"content-type", b"")
    return JSON if raw == b"application/json" else raw.split(b";", 1)[0].strip().lower().decode("latin-1")


def is_json(kind: str) -> bool:
    """Whether a content type is of JSON, or of lines of it."""
    return kind in (JSON, NDJSON) or kind.endswith("+json")


def needs_no_body(operation: Operation) -> bool:
    """Whether a POST may come without a body, which then counts as `{}`: its fields are in the path, or may be left out."""
    if operation.method != "POST" or operation.bodies != (Body.JSON,) or operation.kind is Kind.CLIENT_STREAM:
        return False
    in_path = re.findall(r"\{(\w+)", operation.path)
    fields = msgspec.structs.fields(operation.request)
    return not any(field.required and field.encode_name not in in_path for field in fields)


def is_image(kind: str) -> bool:
    """Whether a content type is of an image, raw or in a form; what it really is the bytes will tell."""
    return kind.startswith("image/") or kind in ("multipart/form-data", OCTETS)


class RequestCodec:
    """Decodes the requests of one row, from path, query and body."""

    def __init__(self, operation: Operation) -> None:
        self._operation = operation
        self._json = BodyDecoder(operation.request)
        self._object = msgspec.json.Decoder(dict[str, Any])
        self._has_body = operation.bodies != (Body.NONE,)
        self._may_be_empty = needs_no_body(operation)
        self._types = {field.encode_name: field.type for field in msgspec.structs.fields(operation.request)}

    def check(self, headers: dict[bytes, bytes]) -> Body:
        """Return the kind of body by its content type. Raises `UnsupportedMediaType`."""
        kind = media_type(headers)
        bodies = self._operation.bodies
        if not self._has_body:
            return Body.NONE
        check_encoding(headers)
        if Body.JSON in bodies and is_json(kind):
            return Body.JSON
        if Body.IMAGE in bodies and is_image(kind):
            return Body.IMAGE
        if is_vectors(kind, self._operation):
            return Body.VECTORS
        if self._may_be_empty:
            # What is not there has no type; whether something is, decoding will tell.
            return Body.JSON
        raise unsupported(kind, bodies)

    def line(self, data: bytes) -> Any:
        """Decode one message of a stream."""
        return self._json.line(data)

    async def decode(
        self, kind: Body, data: bytes, headers: dict[bytes, bytes], params: dict[str, str], query: bytes
    ) -> Any:
        """Decode a whole request. Raises `InvalidRequest`, `UnsupportedMediaType`."""
        if self._may_be_empty:
            if not data:
                data = b"{}"
            elif not is_json(media_type(headers)):
                raise unsupported(media_type(headers), self._operation.bodies)
        if kind is Body.JSON and not params and not query:
            return await self._json.decode(data)
        fields = once(parse_query(query), params)
        is_strict = kind is Body.JSON
        if is_strict:
            typed = {name: self._typed(name, text) for name, text in fields.items()}
            fields = once(decode_json(self._object, data), typed)
        elif kind is Body.IMAGE:
            return await decode_image(self._operation.request, data, headers, fields)
        elif kind is Body.VECTORS:
            return decode_vectors(self._operation.request, data, fields)
        try:
            return msgspec.convert(fields, self._operation.request, strict=is_strict)
        except msgspec.ValidationError as error:
            raise invalid(error) from None

    def _typed(self, name: str, text: str) -> Any:
        """Return a field of path or query, where all is text, as the type that a body would have it in."""
        wanted = self._types.get(name, str)
        try:
            return msgspec.convert(text, wanted, strict=False)
        except msgspec.ValidationError as error:
            raise InvalidRequest(f"{error} - at `$.{name}`", param=name) from None


_MEDIA = {
    Body.NONE: "no body",
    Body.JSON: JSON,
    Body.IMAGE: "an image, raw or as multipart/form-data",
    Body.VECTORS: OCTETS,
}


def unsupported(kind: str, bodies: Iterable[Body]) -> UnsupportedMediaType:
    """Word the refusal of a content type where others are read."""
    wanted = " or ".join(_MEDIA[body] for body in bodies)
    return UnsupportedMediaType(f"the content type is {kind or 'missing'}; send {wanted}")


def parse_query(query: bytes) -> dict[str, Any]:
    """Return the fields of a query string. Raises `InvalidRequest` for one that cannot be read, or names a field twice."""
    try:
        pairs = parse_qsl(
            query.decode("ascii"), keep_blank_values=True, max_num_fields=MAX_FORM_FIELDS, errors="strict"
        )
    except ValueError:
        raise InvalidRequest("the query string cannot be read") from None
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            raise InvalidRequest(f"the query names {name!r} twice", param=name)
        fields[name] = value
    return fields


def once(fields: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of both. Raises `InvalidRequest` for one that is something else in the other.

    What is in front may have judged the call by the path alone.
    """
    for name in fields.keys() & others.keys():
        if fields[name] != others[name]:
            raise InvalidRequest(f"{name} is given twice, and is not the same: send it once", param=name)
    return fields | others


async def decode_image(
    request: type[msgspec.Struct], data: bytes, headers: dict[bytes, bytes], fields: dict[str, Any]
) -> Any:
    """Decode a body that is an image or a form of files; the other fields come from the form, or the query in `fields`.

    Fields that are lists or objects are JSON there.
    """
    is_form = media_type(headers) == "multipart/form-data"
    files, others = await read_form(data, headers) if is_form else ([data], {})
    fields = once(fields, others)
    if len(files) == 1 and "image" in request.__struct_encode_fields__:
        fields["image"] = files[0]
    elif files:
        fields["images"] = files
    for name in _structured(request) & fields.keys():
        if not isinstance(fields[name], str):
            continue
        try:
            fields[name] = msgspec.json.decode(fields[name])
        except (msgspec.DecodeError, UnicodeError, RecursionError, TypeError):
            raise InvalidRequest(f"{name} is not valid JSON", param=name) from None
    try:
        return msgspec.convert(fields, request, strict=False)
    except msgspec.ValidationError as error:
        raise invalid(error) from None


@functools.cache
def _structured(request: type[msgspec.Struct]) -> frozenset[str]:
    """Return the names of the fields that are lists or objects."""
    found = set()
    described = msgspec.inspect.type_info(request)
    assert isinstance(described, msgspec.inspect.StructType)
    for one in described.fields:
        kinds = one.type.types if isinstance(one.type, msgspec.inspect.UnionType) else (one.type,)
        kinds = tuple(kind.type if isinstance(kind, msgspec.inspect.Metadata) else kind for kind in kinds)
        if any(isinstance(kind, _STRUCTURED) for kind in kinds):
            found.add(one.encode_name)
    return frozenset(found)


_STRUCTURED = (msgspec.inspect.CollectionType, msgspec.inspect.StructType, msgspec.inspect.DictType)


def decode_vectors(request: type[msgspec.Struct], data: bytes, fields: dict[str, Any]) -> Any:
    """Decode a body of two matrices into `left` and `right`; the other fields come from the query in `fields`."""
    matrices = _vector_fields(data)
    # msgspec cannot convert an array into rows of numbers, so the matrices are put in place of none.
    try:
        empty = msgspec.convert({**fields, **dict.fromkeys(matrices, ())}, request, strict=False)
    except msgspec.ValidationError as error:
        raise invalid(error) from None
    return msgspec.structs.replace(empty, **matrices)


def is_vectors(kind: str, operation: Operation) -> bool:
    """Whether a content type is of binary vectors, and the row reads them."""
    return kind == OCTETS and Body.VECTORS in operation.bodies


def _vector_fields(data: bytes) -> dict[str, Any]:
    """Return `left` and `right`, float32 matrices, from `u32 rows_left, u32 rows_right, u32 dim` and float32 rows."""
    if len(data) < VECTORS_HEADER.size:
        raise InvalidRequest(f"the body has {len(data)} bytes; its header alone has {VECTORS_HEADER.size}")
    left, right, dim = VECTORS_HEADER.unpack_from(data)
    wanted = VECTORS_HEADER.size + (left + right) * dim * 4
    if wanted != len(data):
        raise InvalidRequest(f"{left} + {right} rows of {dim} float32 take {wanted} bytes; the body has {len(data)}")
    numbers = np.frombuffer(data, dtype="<f4", offset=VECTORS_HEADER.size)
    return {"left": numbers[: left * dim].reshape(left, dim), "right": numbers[left * dim :].reshape(right, dim)}


def encode_vectors(response: msgspec.Struct) -> bytes:
    """Return the numbers of a response to a binary request: its array fields as little-endian float32, in order."""
    values = (getattr(response, name) for name in response.__struct_fields__)
    return b"".join(np.asarray(v, dtype="<f4").tobytes() for v in values if isinstance(v, np.ndarray | list))
