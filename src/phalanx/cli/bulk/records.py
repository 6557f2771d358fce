"""What passes through a bulk run: records as they are read, rows as they are written."""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct

from phalanx.contract.text import ItemError
from phalanx.contract.vector import Vector


class Position(NamedTuple):
    """A place between two records of an input, to read on from.

    `offset` counts bytes of the unpacked input, `line` its lines; both count rows of a Parquet file.
    """

    offset: int = 0
    line: int = 0


class Record(NamedTuple):
    """One record of the input: its text, or why it has none, and the place behind it."""

    text: str | None
    problem: ItemError | None
    end: Position


class Row(Struct, frozen=True):
    """One row of the output. `index` counts the input's records from 0, failed ones too.

    `embedding` is float32 of shape `[d]`, or the base64 of its little-endian bytes, or None beside an error.
    `tokens` is the text's length before it was cut to the model's.
    """

    index: int
    text: str | None
    embedding: Vector | str | None
    tokens: int
    truncated: bool
    error: ItemError | None
