"""Write vectors as JSON lines or as a NumPy array, so that a run that was killed can go on behind its last checkpoint."""

from __future__ import annotations

import enum
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import orjson

from phalanx.cli.bulk.records import Row
from phalanx.contract.vector import Vector
from phalanx.errors import Conflict, InvalidRequest

NPY_HEADER_BYTES = 128
"""Room for the header of any count: version 1.0 of the format wants a multiple of 64."""


class OutputFormat(enum.StrEnum):
    """What an output may be."""

    JSONL = "jsonl"
    NPY = "npy"
    PARQUET = "parquet"


SUFFIXES = {
    ".jsonl": OutputFormat.JSONL,
    ".ndjson": OutputFormat.JSONL,
    ".npy": OutputFormat.NPY,
    ".parquet": OutputFormat.PARQUET,
    ".pq": OutputFormat.PARQUET,
}


@dataclass(frozen=True, slots=True)
class Layout:
    """What all rows have in common: `dimensions` of a vector, whether texts are kept, notes for the file's own head."""

    dimensions: int
    keep_text: bool = False
    notes: dict[str, str] = field(default_factory=dict)


class Writer(Protocol):
    """An output on its way. What was written since the last checkpoint is lost when the process is killed.

    `pending` counts bytes written since then. All methods raise `OSError` when the disk does not take it.
    """

    pending: int

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows."""
        ...

    def checkpoint(self) -> int:
        """Put what was written on the disk; return the state from which a later writer goes on."""
        ...

    def finish(self) -> Path:
        """Complete the output and return its file."""
        ...

    def close(self) -> None:
        """Give back what is open; what no checkpoint covers may be lost."""
        ...


def format_of(path: Path) -> OutputFormat:
    """Return the format that a file's name says. Raises `InvalidRequest` for an unknown suffix."""
    found = SUFFIXES.get(path.suffix.lower())
    if found is None:
        raise InvalidRequest(
            f"the name {path.name!r} does not say what to write; name it {', '.join(SUFFIXES)} "
            f"or give --to {'|'.join(OutputFormat)}"
        )
    return found


class JsonlWriter:
    """One JSON object a row: index, embedding (null beside an error), tokens, truncated, and, if kept, text."""

    def __init__(self, folder: Path, state: int, layout: Layout) -> None:
        self._path = folder / "rows.jsonl"
        self._file = reopen(self._path, state)
        self._keep_text = layout.keep_text
        self.pending = 0

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows."""
        for row in rows:
            self.pending += self._file.write(self._line(row))

    def checkpoint(self) -> int:
        """Put what was written on the disk; the state is the file's length in bytes."""
        self.pending = 0
        return sync(self._file)

    def finish(self) -> Path:
        """Return the file."""
        self.checkpoint()
        self.close()
        return self._path

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _line(self, row: Row) -> bytes:
        fields: dict[str, object] = {"index": row.index, "embedding": row.embedding}
        if row.error is None:
            fields |= {"tokens": row.tokens, "truncated": row.truncated}
        else:
            fields["error"] = {"code": row.error.code, "detail": row.error.detail}
        if self._keep_text:
            fields["text"] = row.text
        return orjson.dumps(fields, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)


class NpyWriter:
    """A float32 array `[rows, d]`; a failed row is NaN throughout. The count goes into the header at the end."""

    def __init__(self, folder: Path, state: int, layout: Layout) -> None:
        self._path = folder / "rows.npy"
        self._dimensions = layout.dimensions
        self._file = reopen(self._path, state)
        if not state:
            self._file.write(_npy_header(0, layout.dimensions))
        self.pending = 0

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows."""
        self.pending += self._file.write(matrix(rows, self._dimensions).tobytes())

    def checkpoint(self) -> int:
        """Put what was written on the disk; the state is the file's length in bytes."""
        self.pending = 0
        return sync(self._file)

    def finish(self) -> Path:
        """Write the header and return the file."""
        count = (self.checkpoint() - NPY_HEADER_BYTES) // (4 * self._dimensions)
        self._file.seek(0)
        self._file.write(_npy_header(count, self._dimensions))
        sync(self._file)
        self.close()
        return self._path

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def matrix(rows: Sequence[Row], dimensions: int) -> Vector:
    """Return the rows' vectors as little-endian float32 `[rows, dimensions]`, NaN where there is none."""
    values = np.full((len(rows), dimensions), np.nan, dtype="<f4")
    for place, row in zip(values, rows, strict=True):
        if row.embedding is not None:
            place[:] = row.embedding
    return values


def _npy_header(count: int, dimensions: int) -> bytes:
    """Return the head of a `.npy` file, version 1.0 (numpy.lib.format), padded to its fixed length."""
    words = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({count}, {dimensions}), }}"
    magic = b"\x93NUMPY\x01\x00"
    length = NPY_HEADER_BYTES - len(magic) - 2
    return magic + length.to_bytes(2, "little") + words.encode().ljust(length - 1) + b"\n"


def reopen(path: Path, length: int) -> BinaryIO:
    """Open a new file, or an old one cut to `length` bytes. Raises `Conflict` when it is shorter."""
    if not length:
        return path.open("wb")
    there = path.stat().st_size if path.exists() else 0
    if there < length:
        raise Conflict(
            f"{str(path)!r} has {there} bytes and should have {length}: what the interrupted run left is damaged; "
            "begin anew with --restart"
        )
    file = path.open("r+b")
    file.truncate(length)
    file.seek(length)
    return file


def sync(file: BinaryIO) -> int:
    """Put what was written on the disk; return the place behind it."""
    file.flush()
    os.fsync(file.fileno())
    return file.tell()
