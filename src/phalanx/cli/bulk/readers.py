"""Read texts from a file of any size: lines, JSON lines, CSV, from its beginning or from a place within."""

from __future__ import annotations

import csv
import enum
import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol, cast

import msgspec

from phalanx.cli.bulk.records import Position, Record
from phalanx.contract.text import ItemError
from phalanx.errors import InvalidRequest

CHUNK_BYTES = 1 << 20
MAX_LINE_BYTES = 1 << 26
"""Longest line and longest CSV field. A longer one is not text, and memory has to stay bounded."""

JSON_KINDS = {
    dict: "an object",
    list: "a list",
    int: "a number",
    float: "a number",
    bool: "a boolean",
    type(None): "null",
}
NOT_UTF8 = "the text is not UTF-8; --errors replace reads it all the same"
UTF8_MARK = b"\xef\xbb\xbf"
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")

STDIN = 0

Line = tuple[bytes, Position]
"""A line with its ending, and the place behind it."""

Decoding = Literal["strict", "replace"]


class InputFormat(enum.StrEnum):
    """What an input may be."""

    TXT = "txt"
    JSONL = "jsonl"
    CSV = "csv"
    TSV = "tsv"
    PARQUET = "parquet"


SUFFIXES = {
    ".txt": InputFormat.TXT,
    ".text": InputFormat.TXT,
    ".jsonl": InputFormat.JSONL,
    ".ndjson": InputFormat.JSONL,
    ".csv": InputFormat.CSV,
    ".tsv": InputFormat.TSV,
    ".parquet": InputFormat.PARQUET,
    ".pq": InputFormat.PARQUET,
}


@dataclass(frozen=True, slots=True)
class Source:
    """An input and how to read it. `path` None is standard input; `column` is ignored by txt."""

    path: Path | None
    format: InputFormat
    column: str = "text"
    decoding: Decoding = "strict"


class Reader(Protocol):
    """An input, opened anew for each reading.

    `total` is its end as a `Position.offset`, None if unknown; `unit` is the word for what `Position.line` counts.
    """

    total: int | None
    unit: str

    def records(self, start: Position) -> Iterator[Record]:
        """Yield the records behind `start`; one that is wrong carries its problem.

        Raises `InvalidRequest` when the file as a whole is not what it is said to be.
        """
        ...


def format_of(path: Path) -> InputFormat:
    """Return the format that a file's name says. Raises `InvalidRequest` for an unknown suffix."""
    inner = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    found = SUFFIXES.get(inner.suffix.lower())
    if found is None:
        raise InvalidRequest(
            f"the name {path.name!r} does not say what is in the file; name it {', '.join(SUFFIXES)} "
            f"(any but Parquet with .gz too) or give --format {'|'.join(InputFormat)}"
        )
    return found


class LineReader:
    """Reads the formats that are made of lines."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.unit = "line"
        self.total: int | None = None
        if source.path is not None and not _is_packed(source.path) and source.path.is_file():
            self.total = source.path.stat().st_size

    def records(self, start: Position) -> Iterator[Record]:
        """Yield the records behind `start`; see `Reader`."""
        source = self._source
        with _opened(source.path) as stream:
            if source.format is InputFormat.TXT:
                yield from _texts(_lines(stream, start), source.decoding)
            elif source.format is InputFormat.JSONL:
                yield from _objects(_lines(stream, start), source)
            else:
                yield from _cells(stream, start, source)


def _is_packed(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


@contextmanager
def _opened(path: Path | None) -> Iterator[BinaryIO]:
    """Open an input for reading bytes; what goes wrong in reading it becomes `InvalidRequest`."""
    name = "standard input" if path is None else repr(str(path))
    try:
        with _stream(path) as stream:
            yield stream
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InvalidRequest(f"{name} cannot be unpacked as gzip: {error}") from None
    except OSError as error:
        raise InvalidRequest(f"{name} cannot be read: {error.strerror or error}") from None


def _stream(path: Path | None) -> BinaryIO:
    if path is None:
        # Not sys.stdin.buffer: Python closes that when it ends, and may find a thread that still waits in it.
        return open(STDIN, "rb", closefd=False)
    return cast("BinaryIO", gzip.open(path, "rb")) if _is_packed(path) else path.open("rb")


def _lines(stream: BinaryIO, start: Position) -> Iterator[Line]:
    r"""Yield lines, ended by \n, \r\n or \r, from `start` on, which must be the beginning of a line."""
    offset, line = start
    if offset:
        stream.seek(offset)
    read: Callable[[int], bytes] = getattr(stream, "read1", stream.read)
    rest = b""
    while chunk := read(CHUNK_BYTES):
        if not offset and not rest:
            _refuse_utf16(chunk)
        pieces = (rest + chunk).splitlines(keepends=True)
        # The last piece waits even if it ends with \r, since \n may follow.
        rest = b"" if pieces[-1].endswith(b"\n") else pieces.pop()
        if len(rest) > MAX_LINE_BYTES:
            number = line + len(pieces) + 1
            raise InvalidRequest(f"line {number} is longer than {MAX_LINE_BYTES:,} bytes, the longest allowed")
        for piece in pieces:
            offset, line = offset + len(piece), line + 1
            yield piece, Position(offset, line)
    if rest:
        yield rest, Position(offset + len(rest), line + 1)


def _refuse_utf16(head: bytes) -> None:
    if head.startswith(UTF16_MARKS):
        raise InvalidRequest("the input is UTF-16, not UTF-8; convert it: iconv -f UTF-16 -t UTF-8 OLD > NEW")


def _body(line: Line) -> bytes:
    """Return a line without its ending, and the first without its mark."""
    data, end = line
    data = data.rstrip(b"\r\n")
    return data.removeprefix(UTF8_MARK) if end.line == 1 else data


def _texts(lines: Iterator[Line], decoding: Decoding) -> Iterator[Record]:
    """Yield a record for every line, blank ones too, so that the row number is the line's."""
    for line in lines:
        end = line[1]
        try:
            text = _body(line).decode("utf-8", decoding)
        except UnicodeDecodeError:
            yield _wrong(end, NOT_UTF8)
        else:
            yield Record(text, None, end)


def _objects(lines: Iterator[Line], source: Source) -> Iterator[Record]:
    """Yield a record for every line of JSON; blank lines are none."""
    decode = msgspec.json.Decoder().decode
    for line in lines:
        body, end = _body(line), line[1]
        if not body.strip():
            continue
        if source.decoding == "replace":
            body = body.decode("utf-8", "replace").encode()
        try:
            value = decode(body)
        except UnicodeDecodeError:
            yield _wrong(end, NOT_UTF8)
        except (msgspec.DecodeError, RecursionError) as error:
            yield _wrong(end, f"the line is not JSON: {error}")
        else:
            yield _of_value(value, source.column, end)


def _of_value(value: Any, column: str, end: Position) -> Record:
    if isinstance(value, dict):
        if column not in value:
            there = ", ".join(map(repr, list(value)[:20])) or "nothing"
            return _wrong(end, f"the object has no {column!r}; it has {there} (choose with --column)")
        value = value[column]
    if isinstance(value, str):
        return Record(value, None, end)
    return _wrong(end, f"the text is {JSON_KINDS[type(value)]}; it must be a string")


def _cells(stream: BinaryIO, start: Position, source: Source) -> Iterator[Record]:
    """Yield one column of CSV; blank lines are no records, and a quote that never closes is an error."""
    # The csv module keeps this bound for the whole process; its own is 128 KiB.
    csv.field_size_limit(MAX_LINE_BYTES)
    table = _Table(stream, Position(), source)
    column = _place_of(source.column, next(table.rows, []))
    if start.offset:
        table = _Table(stream, start, source)
    for row in table.rows:
        if not row:
            continue
        if len(row) <= column:
            shape = f"the row has {len(row)} fields; the column {source.column!r} is number {column + 1}"
            yield _wrong(table.end, shape)
        elif _has_stray_bytes(row[column]):
            yield _wrong(table.end, NOT_UTF8)
        else:
            yield Record(row[column], None, table.end)


class _Table:
    """The rows of a CSV, read from a place on; `end` is the place behind the last one."""

    def __init__(self, stream: BinaryIO, start: Position, source: Source) -> None:
        self.end = start
        self._lines = _lines(stream, start)
        self._source = source
        self.rows = self._rows()

    def _rows(self) -> Iterator[list[str]]:
        tabs = self._source.format is InputFormat.TSV
        try:
            yield from csv.reader(self._decoded(), strict=True, delimiter="\t" if tabs else ",")
        except csv.Error as error:
            kind = self._source.format.upper()
            raise InvalidRequest(f"line {self.end.line} is not {kind}: {error}") from None

    def _decoded(self) -> Iterator[str]:
        # Bytes that are not UTF-8 matter in one column only, so they are carried along as lone surrogates.
        decoding = "replace" if self._source.decoding == "replace" else "surrogateescape"
        for data, end in self._lines:
            self.end = end
            yield (data.removeprefix(UTF8_MARK) if end.line == 1 else data).decode("utf-8", decoding)


def _place_of(column: str, header: list[str]) -> int:
    if header.count(column) == 1:
        return header.index(column)
    there = ", ".join(map(repr, header[:50])) or "nothing"
    number = "no column" if column not in header else "more than one column"
    raise InvalidRequest(f"the first line names {number} {column!r}; it names {there} (choose with --column)")


def _has_stray_bytes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _wrong(end: Position, problem: str) -> Record:
    return Record(None, ItemError(code=InvalidRequest.row.code, detail=problem), end)
