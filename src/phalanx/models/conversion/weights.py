"""Where each tensor lies in a safetensors file, so that a graph can point at it instead of holding a copy.

Format: 8 bytes little-endian length, a JSON header of that length, then the tensors; offsets count from the header's
end. Source: the format's own description, https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec

from phalanx.models.conversion import UnsupportedModel

MAX_HEADER = 100_000_000
"""Bytes of header that the format's own reader accepts."""

ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
"""The dtypes that a graph may be built of; whatever they are stored as, the graph computes in float32."""


class _Entry(msgspec.Struct, frozen=True):
    dtype: str
    shape: list[Annotated[int, msgspec.Meta(ge=0)]]
    data_offsets: tuple[int, int]


class Tensor(msgspec.Struct, frozen=True):
    """One tensor: `offset` and `length` are bytes from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int


def read_tensors(path: Path) -> Mapping[str, Tensor]:
    """Read which tensors a safetensors file holds, by name. Raises `UnsupportedModel` when it is damaged."""
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else MAX_HEADER + 1
        if length > min(MAX_HEADER, size - 8):
            raise UnsupportedModel(f"{path.name} is no safetensors file: its header does not fit in its {size} bytes")
        header = file.read(length)
    try:
        fields = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        fields.pop("__metadata__", None)
        entries = {name: msgspec.json.decode(raw, type=_Entry) for name, raw in fields.items()}
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnsupportedModel(f"{path.name} is no safetensors file: {error}") from error
    return {name: _located(path.name, name, entry, 8 + length, size) for name, entry in entries.items()}


def _located(file: str, name: str, entry: _Entry, base: int, size: int) -> Tensor:
    start, stop = entry.data_offsets
    if not 0 <= start <= stop <= size - base:
        raise UnsupportedModel(f"{file} is cut short: {name} ends at byte {base + stop}, the file at {size}")
    wanted = math.prod(entry.shape) * ITEM_BYTES.get(entry.dtype, 0)
    if entry.dtype in ITEM_BYTES and stop - start != wanted:
        raise UnsupportedModel(f"{file}: {name} of shape {entry.shape} needs {wanted} bytes, it has {stop - start}")
    return Tensor(name, entry.dtype, tuple(entry.shape), base + start, stop - start)
