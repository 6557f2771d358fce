"""Read and write Parquet by row groups. Only here is pyarrow known, which the extra `bulk` brings."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from phalanx.cli.bulk.readers import Source
from phalanx.cli.bulk.records import Position, Record, Row
from phalanx.cli.bulk.writers import Layout, matrix, reopen, sync
from phalanx.contract.text import ItemError
from phalanx.errors import InvalidRequest

READ_ROWS = 1024
READ_BUFFER_BYTES = 1 << 20
ROW_GROUP_BYTES = 32 << 20
"""A row group is held in memory when it is written, and by most readers too."""


def import_pyarrow() -> tuple[Any, Any]:
    """Return the modules `pyarrow` and `pyarrow.parquet`. Raises `InvalidRequest` where they are not installed."""
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise InvalidRequest("Parquet files need pyarrow; install it: pip install 'phalanx[bulk]'") from None


class ParquetReader:
    """Reads one column of text, a few rows at a time, however large the row groups are."""

    def __init__(self, source: Source) -> None:
        if source.path is None:
            raise InvalidRequest("Parquet ends with its index, so it cannot be read from a pipe; give a file")
        self._pyarrow, self._parquet = import_pyarrow()
        self._path = source.path
        self._column = source.column
        self.unit = "row"
        with self._opened() as file:
            self._check(file.schema_arrow)
            self.total: int | None = file.metadata.num_rows

    def records(self, start: Position) -> Iterator[Record]:
        """Yield the records behind `start`; see `Reader`."""
        row = 0
        with self._opened() as file:
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if row + rows <= start.offset:
                    row += rows
                    continue
                for batch in self._batches(file, group):
                    skipped = min(max(0, start.offset - row), len(batch))
                    row += skipped
                    for text in batch.column(0).slice(skipped).to_pylist():
                        row += 1
                        yield _record(text, Position(row, row))

    def _batches(self, file: Any, group: int) -> Iterator[Any]:
        try:
            yield from file.iter_batches(batch_size=READ_ROWS, row_groups=[group], columns=[self._column])
        except (OSError, UnicodeDecodeError, self._pyarrow.ArrowException) as error:
            raise InvalidRequest(f"{str(self._path)!r} cannot be read as Parquet: {error}") from None

    def _opened(self) -> Any:
        try:
            # A buffer size makes it read a column piece by piece, and not a whole row group's at once.
            return self._parquet.ParquetFile(self._path, buffer_size=READ_BUFFER_BYTES, pre_buffer=False)
        except OSError as error:
            raise InvalidRequest(f"{str(self._path)!r} cannot be read: {error.strerror or error}") from None
        except self._pyarrow.ArrowException as error:
            raise InvalidRequest(f"{str(self._path)!r} cannot be read as Parquet: {error}") from None

    def _check(self, schema: Any) -> None:
        if schema.names.count(self._column) != 1:
            there = ", ".join(map(repr, schema.names[:50]))
            raise InvalidRequest(f"the file has no column {self._column!r}; it has {there} (choose with --column)")
        kind = schema.field(self._column).type
        types = self._pyarrow.types
        inner = kind.value_type if types.is_dictionary(kind) else kind
        if not (types.is_string(inner) or types.is_large_string(inner) or types.is_string_view(inner)):
            raise InvalidRequest(f"the column {self._column!r} is {kind}; it must be text")


def _record(text: str | None, end: Position) -> Record:
    if text is None:
        return Record(None, ItemError(code=InvalidRequest.row.code, detail="the text is null"), end)
    return Record(text, None, end)


class ParquetWriter:
    """Columns index, embedding (a list of d float32), tokens, truncated, error, and, if kept, text.

    A Parquet file cannot be appended to. Up to the end the rows are an Arrow stream, which can: the schema and then
    batches, each of them whole; the last step turns it into row groups.
    """

    def __init__(self, folder: Path, state: int, layout: Layout) -> None:
        self._pyarrow, self._parquet = import_pyarrow()
        self._folder = folder
        self._layout = layout
        self._schema = self._make_schema()
        self._path = folder / "rows.arrow"
        self._file = reopen(self._path, state)
        if not state:
            self._file.write(self._schema.serialize())
        self.pending = 0

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows."""
        if rows:
            self.pending += self._file.write(self._batch(rows).serialize())

    def checkpoint(self) -> int:
        """Put what was written on the disk; the state is the stream's length in bytes."""
        self.pending = 0
        return sync(self._file)

    def finish(self) -> Path:
        """Write the Parquet file and return it."""
        self.checkpoint()
        self.close()
        path = self._folder / "rows.parquet"
        with path.open("wb") as file:
            # Vectors do not compress, and a dictionary of floats only costs time.
            with self._parquet.ParquetWriter(
                file, self._schema, use_dictionary=False, compression={"embedding.list.element": "none"}
            ) as writer:
                for table in self._row_groups():
                    writer.write_table(table, row_group_size=len(table))
            sync(file)
        return path

    def close(self) -> None:
        """Close the stream."""
        self._file.close()

    def _make_schema(self) -> Any:
        pa = self._pyarrow
        columns = [
            pa.field("index", pa.int64(), nullable=False),
            pa.field("embedding", pa.list_(pa.float32(), self._layout.dimensions)),
            pa.field("tokens", pa.int32()),
            pa.field("truncated", pa.bool_()),
            pa.field("error", pa.string()),
        ]
        if self._layout.keep_text:
            columns.append(pa.field("text", pa.string()))
        return pa.schema(columns, metadata=self._layout.notes)

    def _batch(self, rows: Sequence[Row]) -> Any:
        pa = self._pyarrow
        failed = [row.error is not None for row in rows]
        vectors = pa.array(matrix(rows, self._layout.dimensions).ravel())
        columns = [
            pa.array([row.index for row in rows], pa.int64()),
            pa.FixedSizeListArray.from_arrays(
                vectors, type=self._schema.field("embedding").type, mask=pa.array(failed)
            ),
            pa.array([None if row.error else row.tokens for row in rows], pa.int32()),
            pa.array([None if row.error else row.truncated for row in rows], pa.bool_()),
            pa.array([row.error and row.error.detail for row in rows], pa.string()),
        ]
        if self._layout.keep_text:
            columns.append(pa.array([row.text for row in rows], pa.string()))
        return pa.RecordBatch.from_arrays(columns, schema=self._schema)

    def _row_groups(self) -> Iterator[Any]:
        """Yield the stream's rows in tables of a row group's size."""
        batches: list[Any] = []
        size = 0
        with self._pyarrow.OSFile(str(self._path)) as file, self._pyarrow.ipc.open_stream(file) as stream:
            for batch in stream:
                batches.append(batch)
                size += batch.nbytes
                if size >= ROW_GROUP_BYTES:
                    yield self._pyarrow.Table.from_batches(batches)
                    batches, size = [], 0
        if batches:
            yield self._pyarrow.Table.from_batches(batches)
