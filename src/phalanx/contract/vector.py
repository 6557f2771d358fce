"""The float32 vector as it stands in contract structs, and its forms in MessagePack and JSON."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt
import orjson
from msgspec import Meta

Vector = npt.NDArray[np.float32]
"""A float32 array of shape `[d]` (a vector) or `[n, d]` (one row a token)."""

# msgspec cannot decode a union that holds a foreign type, so the field is `Any` to it and an array to its readers.
Embedding = Annotated[
    Any,
    Meta(
        description="Numbers (float32, int8 or uint8 by `output`), or their little-endian float32 bytes in base64; null for a failed item.",
        extra_json_schema={
            "oneOf": [
                {"type": "array", "items": {"type": "number"}},
                {"type": "string", "format": "byte"},
                {"type": "null"},
            ]
        },
    ),
]
"""A vector as asked for: an array of shape `[d]`, a base64 string, or None where its item failed."""

TokenVectors = Annotated[
    Any,
    Meta(
        description="One row of numbers (float32) a token; null for a failed item.",
        extra_json_schema={
            "oneOf": [{"type": "array", "items": {"type": "array", "items": {"type": "number"}}}, {"type": "null"}]
        },
    ),
]
"""A float32 array of shape `[tokens, d]`, or None where its item failed."""

Matrix = Annotated[
    Any,
    Meta(
        description="Rows of numbers (float32), all as long.",
        extra_json_schema={"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
    ),
]
"""A float32 array of shape `[n, d]`, or, from JSON, rows that are yet to be checked."""

_ARRAY = 1


def pack_array(value: Any) -> Any:
    """Encode an array as a MessagePack extension: dtype, shape and bytes. For msgspec's `enc_hook`."""
    if isinstance(value, np.ndarray):
        header = (value.dtype.str, value.shape, value.tobytes())
        return msgspec.msgpack.Ext(_ARRAY, msgspec.msgpack.encode(header))
    raise NotImplementedError(f"{type(value).__name__} is no contract type. This is a bug.")


def unpack_array(code: int, data: memoryview) -> Any:
    """Decode what `pack_array` encoded. For msgspec's `ext_hook`."""
    if code != _ARRAY:
        raise ValueError(f"MessagePack extension {code} is not known")
    dtype, shape, raw = msgspec.msgpack.decode(data)
    return np.frombuffer(raw, dtype=dtype).reshape(shape)


def render_array(value: Any) -> Any:
    """Encode an array as JSON. For msgspec's `enc_hook`.

    orjson writes the shortest text that reads back as the same float32: half the bytes of a double.
    """
    if isinstance(value, np.ndarray):
        return msgspec.Raw(orjson.dumps(np.ascontiguousarray(value), option=orjson.OPT_SERIALIZE_NUMPY))
    raise NotImplementedError(f"{type(value).__name__} is no contract type. This is a bug.")
