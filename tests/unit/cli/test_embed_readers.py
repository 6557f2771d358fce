"""Reading texts: every format, from any place, and what is said of what cannot be read."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phalanx.cli.bulk import readers
from phalanx.cli.bulk.parquet import ParquetReader
from phalanx.cli.bulk.readers import InputFormat, LineReader, Reader, Source, format_of
from phalanx.cli.bulk.records import Position, Record
from phalanx.errors import InvalidRequest

TEXTS = ["plain", "", "naïve café", "two, commas", 'a "quote"', "日本語", "😀", "  spaces  "]
BEGIN = Position()


def read(source: Source, start: Position = BEGIN) -> list[Record]:
    reader: Reader = ParquetReader(source) if source.format is InputFormat.PARQUET else LineReader(source)
    return list(reader.records(start))


def texts(records: list[Record]) -> list[str | None]:
    return [record.text for record in records]


def problems(records: list[Record]) -> list[str]:
    return [record.problem.detail for record in records if record.problem is not None]


def write_txt(path: Path, rows: list[str]) -> None:
    path.write_bytes("".join(f"{row}\n" for row in rows).encode())


def write_jsonl(path: Path, rows: list[str]) -> None:
    path.write_text("".join(json.dumps({"id": i, "text": row}) + "\n" for i, row in enumerate(rows)))


def write_csv(path: Path, rows: list[str], delimiter: str = ",") -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["id", "text"])
        writer.writerows([str(i), row] for i, row in enumerate(rows))


def write_tsv(path: Path, rows: list[str]) -> None:
    write_csv(path, rows, "\t")


def write_parquet(path: Path, rows: list[str]) -> None:
    table = pa.table({"id": list(range(len(rows))), "text": pa.array(rows, pa.string())})
    pq.write_table(table, path, row_group_size=3)


WRITERS: dict[InputFormat, Callable[[Path, list[str]], None]] = {
    InputFormat.TXT: write_txt,
    InputFormat.JSONL: write_jsonl,
    InputFormat.CSV: write_csv,
    InputFormat.TSV: write_tsv,
    InputFormat.PARQUET: write_parquet,
}


@pytest.mark.parametrize("format_", list(InputFormat))
def test_a_file_gives_its_texts_in_order(tmp_path: Path, format_: InputFormat) -> None:
    path = tmp_path / f"input.{format_}"
    WRITERS[format_](path, TEXTS)
    assert texts(read(Source(path, format_of(path)))) == TEXTS


@pytest.mark.parametrize("format_", list(InputFormat))
def test_reading_goes_on_from_behind_any_record(tmp_path: Path, format_: InputFormat) -> None:
    path = tmp_path / f"input.{format_}"
    WRITERS[format_](path, TEXTS)
    source = Source(path, format_)
    records = read(source)
    for number, record in enumerate(records):
        assert read(source, record.end) == records[number + 1 :]


@pytest.mark.parametrize("format_", [f for f in InputFormat if f is not InputFormat.PARQUET])
def test_gzip_is_unpacked_and_can_be_gone_on_with(tmp_path: Path, format_: InputFormat) -> None:
    plain, packed = tmp_path / f"input.{format_}", tmp_path / f"input.{format_}.gz"
    WRITERS[format_](plain, TEXTS)
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    source = Source(packed, format_of(packed))
    records = read(source)
    assert texts(records) == TEXTS
    assert read(source, records[2].end) == records[3:]


@pytest.mark.parametrize("format_", list(InputFormat))
def test_the_last_position_is_the_total(tmp_path: Path, format_: InputFormat) -> None:
    path = tmp_path / f"input.{format_}"
    WRITERS[format_](path, TEXTS)
    source = Source(path, format_)
    reader: Reader = ParquetReader(source) if format_ is InputFormat.PARQUET else LineReader(source)
    assert [*reader.records(BEGIN)][-1].end.offset == reader.total


@given(body=st.lists(st.sampled_from(["a", "\n", "\r", "\r\n", "ü", "\x0b", "\x85", "\u2028"])), size=st.integers(1, 5))
def test_lines_end_as_python_reads_them_whatever_the_size_of_a_read(body: list[str], size: int) -> None:
    data = "".join(body)
    found = list(readers._lines(SmallReads(data.encode(), size), BEGIN))
    assert [line.decode() for line, _ in found] == io.StringIO(data, newline="").readlines()
    lengths = [len(line) for line, _ in found]
    assert [end for _, end in found] == [Position(sum(lengths[: i + 1]), i + 1) for i in range(len(found))]


@given(rows=st.lists(st.text(st.sampled_from('a,"\n\r\t é'), max_size=8), max_size=8), at=st.integers(0, 7))
def test_whatever_a_csv_writer_writes_is_read_and_gone_on_with(
    tmp_path_factory: pytest.TempPathFactory, rows: list[str], at: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    write_csv(path, rows)
    source = Source(path, InputFormat.CSV)
    records = read(source)
    assert texts(records) == rows
    if at < len(records):
        assert read(source, records[at].end) == records[at + 1 :]


class SmallReads(io.BytesIO):
    """A stream that gives few bytes at a time, as a pipe may."""

    def __init__(self, data: bytes, size: int) -> None:
        super().__init__(data)
        self._size = size

    def read1(self, size: int | None = -1, /) -> bytes:
        return self.read(self._size)


def test_a_mark_at_the_beginning_is_no_part_of_the_text(tmp_path: Path) -> None:
    for format_, body in {
        InputFormat.TXT: "first\n",
        InputFormat.JSONL: '{"text": "first"}\n',
        InputFormat.CSV: "text\nfirst\n",
    }.items():
        path = tmp_path / f"marked.{format_}"
        path.write_bytes(b"\xef\xbb\xbf" + body.encode())
        assert texts(read(Source(path, format_))) == ["first"]


def test_utf16_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "input.txt"
    path.write_bytes("hello\n".encode("utf-16"))
    with pytest.raises(InvalidRequest, match=r"UTF-16.*iconv"):
        read(Source(path, InputFormat.TXT))


@pytest.mark.parametrize(
    ("format_", "body"),
    [
        (InputFormat.TXT, b"good\nb\xffd\ngood\n"),
        (InputFormat.JSONL, b'"good"\n"b\xffd"\n"good"\n'),
        (InputFormat.CSV, b"text\ngood\nb\xffd\ngood\n"),
    ],
)
def test_bytes_that_are_not_utf8_fail_their_record_or_are_replaced(
    tmp_path: Path, format_: InputFormat, body: bytes
) -> None:
    path = tmp_path / "input"
    path.write_bytes(body)
    records = read(Source(path, format_))
    assert texts(records) == ["good", None, "good"]
    assert "not UTF-8" in problems(records)[0]
    assert texts(read(Source(path, format_, decoding="replace"))) == ["good", "b\ufffdd", "good"]


def test_bytes_that_are_not_utf8_do_no_harm_in_another_csv_column(tmp_path: Path) -> None:
    path = tmp_path / "input.csv"
    path.write_bytes(b"id,text\n\xff,good\n")
    assert texts(read(Source(path, InputFormat.CSV))) == ["good"]


def test_a_line_without_end_is_refused_before_memory_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "MAX_LINE_BYTES", 1000)
    monkeypatch.setattr(readers, "CHUNK_BYTES", 100)
    path = tmp_path / "input.txt"
    path.write_bytes(b"short\n" + b"x" * 5000)
    with pytest.raises(InvalidRequest, match="line 2 is longer than 1,000 bytes"):
        read(Source(path, InputFormat.TXT))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not JSON"),
        ('{"body": "x"}', "no 'text'; it has 'body'"),
        ("{}", "no 'text'; it has nothing"),
        ('{"text": null}', "the text is null"),
        ('{"text": 7}', "the text is a number"),
        ("true", "the text is a boolean"),
        ('["a"]', "the text is a list"),
        ('{"text": {}}', "the text is an object"),
        ("[" * 20_000, "not JSON"),
        ('"\\ud800"', "not JSON"),
    ],
)
def test_a_line_of_json_without_a_text_fails_alone(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "input.jsonl"
    path.write_text(f'"before"\n{line}\n"behind"\n')
    records = read(Source(path, InputFormat.JSONL))
    assert texts(records) == ["before", None, "behind"]
    assert said in problems(records)[0]


def test_blank_lines_are_records_of_text_only(tmp_path: Path) -> None:
    for format_, body, expected in (
        (InputFormat.TXT, "a\n\nb\n", ["a", "", "b"]),
        (InputFormat.JSONL, '"a"\n\n  \n"b"\n', ["a", "b"]),
        (InputFormat.CSV, "text\na\n\nb\n", ["a", "b"]),
    ):
        path = tmp_path / f"blank.{format_}"
        path.write_text(body)
        assert texts(read(Source(path, format_))) == expected


def test_a_csv_field_may_hold_lines_and_be_large(tmp_path: Path) -> None:
    path = tmp_path / "input.csv"
    rows = ["first\nsecond\r\nthird", "x" * 300_000, "last"]
    write_csv(path, rows)
    source = Source(path, InputFormat.CSV)
    records = read(source)
    assert texts(records) == rows
    assert records[0].end.line == 4
    assert read(source, records[0].end) == records[1:]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("", "names no column 'text'; it names nothing"),
        ("id,title\n1,a\n", "no column 'text'; it names 'id', 'title'"),
        ("text,text\n1,a\n", "more than one column 'text'"),
        ('text\n"never closed\nmore\n', "line 3 is not CSV"),
        ('text\n"a"b\n', "line 2 is not CSV"),
    ],
)
def test_a_csv_that_makes_no_table_is_refused(tmp_path: Path, body: str, said: str) -> None:
    path = tmp_path / "input.csv"
    path.write_text(body)
    with pytest.raises(InvalidRequest, match=said):
        read(Source(path, InputFormat.CSV))


def test_a_csv_row_that_is_too_short_fails_alone(tmp_path: Path) -> None:
    path = tmp_path / "input.csv"
    path.write_text("id,text\n1\n2,good\n")
    records = read(Source(path, InputFormat.CSV))
    assert texts(records) == [None, "good"]
    assert problems(records) == ["the row has 1 fields; the column 'text' is number 2"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet_text_of_every_type_is_read_and_null_fails_alone(tmp_path: Path, kind: pa.DataType) -> None:
    path = tmp_path / "input.parquet"
    pq.write_table(pa.table({"body": pa.array(["a", None, "b"], pa.string()).cast(kind)}), path)
    records = read(Source(path, InputFormat.PARQUET, column="body"))
    assert texts(records) == ["a", None, "b"]
    assert problems(records) == ["the text is null"]


def test_parquet_without_the_column_or_with_another_type_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "input.parquet"
    pq.write_table(pa.table({"title": ["a"], "text": [1]}), path)
    with pytest.raises(InvalidRequest, match="no column 'body'; it has 'title', 'text'"):
        ParquetReader(Source(path, InputFormat.PARQUET, column="body"))
    with pytest.raises(InvalidRequest, match="'text' is int64; it must be text"):
        ParquetReader(Source(path, InputFormat.PARQUET))


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "input.parquet"
    path.write_bytes(b"no parquet at all")
    with pytest.raises(InvalidRequest, match="cannot be read as Parquet"):
        ParquetReader(Source(path, InputFormat.PARQUET))


def test_parquet_from_a_pipe_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="cannot be read from a pipe"):
        ParquetReader(Source(None, InputFormat.PARQUET))


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InvalidRequest, match=r"pip install 'phalanx\[bulk\]'"):
        ParquetReader(Source(tmp_path / "input.parquet", InputFormat.PARQUET))


@pytest.mark.parametrize("damage", [lambda data: data[:-20], lambda data: b"no gzip" + data])
def test_a_damaged_gzip_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "input.txt.gz"
    path.write_bytes(damage(gzip.compress(b"a line\n" * 1000)))
    with pytest.raises(InvalidRequest, match="cannot be unpacked as gzip"):
        read(Source(path, InputFormat.TXT))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"none\.txt' cannot be read: No such file"):
        read(Source(tmp_path / "none.txt", InputFormat.TXT))


def test_an_unknown_suffix_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(InvalidRequest, match=r"'notes\.docx'.*\.txt.*--format txt\|jsonl"):
        format_of(Path("notes.docx"))


def test_standard_input_is_read_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.pipe()
    monkeypatch.setattr(readers, "STDIN", ours)
    records = LineReader(Source(None, InputFormat.TXT)).records(BEGIN)
    os.write(theirs, b"first\nsec")
    assert next(records).text == "first"
    os.write(theirs, b"ond")
    os.close(theirs)
    assert texts(list(records)) == ["second"]
    os.close(ours)
