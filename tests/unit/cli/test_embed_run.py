"""A bulk run around an embedder of the test's own: order, failures, kills and memory."""

from __future__ import annotations

import asyncio
import base64
import errno
import json
import os
import random
import shutil
import signal
import threading
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from phalanx.cli.bulk import feed as feed_module
from phalanx.cli.bulk import run as run_module
from phalanx.cli.bulk.asking import EmbedOptions, ask
from phalanx.cli.bulk.feed import Bounds, Feed, chunks
from phalanx.cli.bulk.journal import Journal, Tally, Workspace, begin, identify
from phalanx.cli.bulk.parquet import ParquetWriter
from phalanx.cli.bulk.readers import InputFormat, LineReader, Source
from phalanx.cli.bulk.records import Position, Record, Row
from phalanx.cli.bulk.run import Pace, Run
from phalanx.cli.bulk.writers import JsonlWriter, Layout, NpyWriter, Writer
from phalanx.contract.text import EmbedItem, EmbedRequest, EmbedResponse, ItemError, TokenUsage
from phalanx.errors import (
    Conflict,
    Internal,
    InvalidRequest,
    Overloaded,
    PhalanxError,
    TextTooLong,
    Unavailable,
)

WIDTH = 4
WRITERS: dict[str, Callable[[Path, int, Layout], Writer]] = {
    "jsonl": JsonlWriter,
    "npy": NpyWriter,
    "parquet": ParquetWriter,
}
PLAIN = EmbedOptions()
PACE = Pace(Bounds(records=5, tokens=10_000, tokens_of_text=256), 4)


def vector(text: str) -> np.ndarray:
    """A vector that tells its text."""
    return np.random.default_rng(list(text.encode())).standard_normal(WIDTH).astype(np.float32)


class Local:
    """Embeds here. `refuse` says what becomes of a text; answers come in a shuffled order."""

    def __init__(self, refuse: Callable[[str], PhalanxError | None] = lambda text: None) -> None:
        self._refuse = refuse
        self._dice = random.Random(7)
        self.requests: list[list[str]] = []
        self.under_way = 0
        self.most_under_way = 0

    async def embed(self, request: EmbedRequest) -> EmbedResponse:
        texts = [text for text in request.texts if isinstance(text, str)]
        self.requests.append(texts)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        for _ in range(self._dice.randrange(4)):
            await asyncio.sleep(0)
        self.under_way -= 1
        errors = [self._refuse(text) for text in texts]
        if all(errors):
            assert errors[0] is not None
            raise errors[0]
        return EmbedResponse(
            embeddings=[
                None if error else self._form(text, request.output) for text, error in zip(texts, errors, strict=True)
            ],
            items=[
                EmbedItem(
                    tokens=0,
                    used_tokens=0,
                    truncated=False,
                    cached=False,
                    error=ItemError(code=error.code, detail=error.detail),
                )
                if error
                else EmbedItem(tokens=len(text), used_tokens=min(len(text), 8), truncated=len(text) > 8, cached=False)
                for text, error in zip(texts, errors, strict=True)
            ],
            model="local",
            usage=TokenUsage(tokens=1),
        )

    def _form(self, text: str, output: str) -> Any:
        return base64.b64encode(vector(text).tobytes()).decode() if output == "base64" else vector(text)


def sit(
    source: Path,
    output: Path,
    *,
    embedder: Any = None,
    on_error: str = "null",
    options: EmbedOptions = PLAIN,
    keep_text: bool = False,
    restart: bool = False,
    pace: Pace = PACE,
    width: int = WIDTH,
    make: Callable[[Path, int, Layout], Writer] | None = None,
) -> Tally:
    """Run from where the last sitting stopped to the end, and publish."""
    workspace = Workspace(output)
    with workspace.locked():
        facts = {**identify(source), "--normalize": options.normalize}
        journal = begin(workspace, facts, on_error=on_error, restart=restart)

        async def go() -> tuple[Path, Tally]:
            return await Run(
                reader=LineReader(Source(source, InputFormat.TXT)),
                embedder=embedder or Local(),
                writer=(make or WRITERS[output.suffix[1:]])(workspace.folder, journal.state, Layout(width, keep_text)),
                journal=journal,
                save=workspace.save,
                options=options,
                pace=pace,
            ).finish()

        file, tally = asyncio.run(go())
        workspace.publish(file)
        return tally


def rows_of(output: Path) -> list[tuple[int | None, list[float] | None]]:
    """Read an output of any format as (index, vector or None)."""
    if output.suffix == ".npy":
        matrix = np.load(output)
        assert matrix.dtype == np.float32
        return [(None, None if np.isnan(row).all() else row.tolist()) for row in matrix]
    if output.suffix == ".parquet":
        table = pq.read_table(output)
        return list(zip(table["index"].to_pylist(), table["embedding"].to_pylist(), strict=True))
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    return [(line["index"], line["embedding"]) for line in lines]


def expected(texts: Sequence[str | None], *, numbered: bool) -> list[tuple[int | None, list[float] | None]]:
    return [(i if numbered else None, None if text is None else vector(text).tolist()) for i, text in enumerate(texts)]


def assert_rows(output: Path, texts: Sequence[str | None]) -> None:
    found, wanted = rows_of(output), expected(texts, numbered=output.suffix != ".npy")
    assert [index for index, _ in found] == [index for index, _ in wanted]
    for (_, mine), (_, theirs) in zip(found, wanted, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None and theirs is not None:
            np.testing.assert_allclose(mine, theirs, rtol=1e-6)


@pytest.fixture
def texts() -> list[str]:
    return [f"text number {number}" for number in range(103)]


@pytest.fixture
def source(tmp_path: Path, texts: list[str]) -> Path:
    path = tmp_path / "input.txt"
    path.write_text("".join(f"{text}\n" for text in texts))
    return path


formats = pytest.mark.parametrize("format_", list(WRITERS))


@formats
def test_rows_keep_the_order_of_the_input(tmp_path: Path, source: Path, texts: list[str], format_: str) -> None:
    output = tmp_path / f"out.{format_}"
    embedder = Local()
    tally = sit(source, output, embedder=embedder)
    assert_rows(output, texts)
    assert (tally.records, tally.failed, tally.truncated) == (103, 0, 103)
    assert tally.tokens == 8 * 103
    assert embedder.most_under_way <= PACE.window
    assert not Workspace(output).folder.exists()


@formats
def test_an_empty_input_gives_an_empty_output(tmp_path: Path, format_: str) -> None:
    source, output = tmp_path / "input.txt", tmp_path / f"out.{format_}"
    source.write_bytes(b"")
    assert sit(source, output).records == 0
    assert rows_of(output) == []
    if format_ == "npy":
        assert np.load(output).shape == (0, WIDTH)


@formats
@pytest.mark.parametrize("on_error", ["null", "skip"])
def test_records_without_a_vector_are_null_or_left_out(tmp_path: Path, format_: str, on_error: str) -> None:
    source, output = tmp_path / "input.txt", tmp_path / f"out.{format_}"
    source.write_bytes(b"good\n\n \t\nb\xffd\nlong one\nlast\n")
    embedder = Local(lambda text: TextTooLong("9 tokens, 8 are allowed") if text.startswith("long") else None)
    tally = sit(source, output, embedder=embedder, on_error=on_error)
    assert (tally.records, tally.failed) == (6, 4)
    if on_error == "null":
        assert_rows(output, ["good", None, None, None, None, "last"])
    else:
        wanted = [(i if format_ != "npy" else None, vector(t).tolist()) for i, t in ((0, "good"), (5, "last"))]
        assert [index for index, _ in rows_of(output)] == [index for index, _ in wanted]


def test_a_failure_says_why_in_its_row(tmp_path: Path) -> None:
    source = tmp_path / "input.txt"
    source.write_text("good\n\n")
    sit(source, tmp_path / "out.jsonl", keep_text=True)
    good, blank = (json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines())
    assert good == {"index": 0, "embedding": good["embedding"], "tokens": 4, "truncated": False, "text": "good"}
    detail = "the text is empty or white space only"
    assert blank == {
        "index": 1, "embedding": None, "error": {"code": "invalid_request", "detail": detail}, "text": "",
    }  # fmt: skip
    sit(source, tmp_path / "out.parquet", keep_text=True)
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names == ["index", "embedding", "tokens", "truncated", "error", "text"]
    assert str(table.schema.field("embedding").type) == f"fixed_size_list<element: float>[{WIDTH}]"
    assert table.drop(["embedding"]).to_pylist() == [
        {"index": 0, "tokens": 4, "truncated": False, "error": None, "text": "good"},
        {"index": 1, "tokens": None, "truncated": None, "error": detail, "text": ""},
    ]


def test_base64_holds_the_same_numbers(tmp_path: Path, source: Path, texts: list[str]) -> None:
    sit(source, tmp_path / "out.jsonl", options=EmbedOptions(output="base64"))
    line = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[42])
    assert np.frombuffer(base64.b64decode(line["embedding"]), "<f4").tolist() == vector(texts[42]).tolist()


@formats
def test_fail_stops_at_the_first_failure_and_another_policy_goes_on_behind_it(tmp_path: Path, format_: str) -> None:
    source, output = tmp_path / "input.txt", tmp_path / f"out.{format_}"
    source.write_text("a\nb\nc\nd\ne\nf\ng\n\ni\n")
    with pytest.raises(InvalidRequest, match=r"line 8: the text is empty.*--on-error null or skip"):
        sit(source, output, on_error="fail")
    assert not output.exists()
    kept = Workspace(output).load()
    assert kept is not None
    assert (kept.tally.records, kept.tally.failed) == (7, 0)
    embedder = Local()
    sit(source, output, on_error="null", embedder=embedder)
    assert embedder.requests == [["i"]]
    assert_rows(output, ["a", "b", "c", "d", "e", "f", "g", None, "i"])


class Killed(Local):
    """Copies what lies on the disk before each request: what a kill at that time would leave."""

    def __init__(self, folder: Path, copies: Path) -> None:
        super().__init__()
        self._folder = folder
        self._copies = copies

    async def embed(self, request: EmbedRequest) -> EmbedResponse:
        if len(self.requests) % 4 == 1:
            shutil.copytree(self._folder, self._copies / str(len(self.requests)))
        return await super().embed(request)


@formats
def test_a_run_goes_on_from_whatever_a_kill_left(
    tmp_path: Path, source: Path, texts: list[str], format_: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "CHECKPOINT_BYTES", 200)
    output = tmp_path / f"out.{format_}"
    folder = Workspace(output).folder
    sit(source, output, embedder=Killed(folder, tmp_path / "copies"))
    first = output.read_bytes()
    saved = 0
    for copy in (tmp_path / "copies").iterdir():
        output.unlink()
        shutil.copytree(copy, folder)
        done = Workspace(output).load()
        again = Local()
        tally = sit(source, output, embedder=again)
        assert tally.records == len(texts)
        saved += done is not None
        assert sum(map(len, again.requests)) == len(texts) - (done.tally.records if done else 0)
        assert output.read_bytes() == first
    assert saved >= 3


@formats
def test_ctrl_c_keeps_what_was_done(tmp_path: Path, source: Path, texts: list[str], format_: str) -> None:
    output = tmp_path / f"out.{format_}"

    class Interrupted(Local):
        async def embed(self, request: EmbedRequest) -> EmbedResponse:
            if len(self.requests) == 12:
                # What asyncio.run makes of Ctrl-C: it cancels the main task.
                os.kill(os.getpid(), signal.SIGINT)
                await asyncio.Event().wait()
            return await super().embed(request)

    with pytest.raises(KeyboardInterrupt):
        sit(source, output, embedder=Interrupted())
    kept = Workspace(output).load()
    assert kept is not None
    assert 0 < kept.tally.records <= 60
    sit(source, output)
    assert_rows(output, texts)


def test_a_broken_input_keeps_what_was_read_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Breaks(LineReader):
        def records(self, start: Position) -> Any:
            for number, record in enumerate(super().records(start)):
                if number == 7:
                    raise InvalidRequest("line 8 is beyond reading")
                yield record

    source = tmp_path / "input.txt"
    source.write_text("a\n" * 20)
    monkeypatch.setitem(globals(), "LineReader", Breaks)
    with pytest.raises(InvalidRequest, match="line 8 is beyond"):
        sit(source, tmp_path / "out.jsonl")
    kept = Workspace(tmp_path / "out.jsonl").load()
    assert kept is not None
    assert kept.tally.records == 5


@formats
def test_a_full_disk_leaves_the_last_checkpoint(
    tmp_path: Path, source: Path, texts: list[str], format_: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "CHECKPOINT_BYTES", 200)
    output = tmp_path / f"out.{format_}"

    def full(folder: Path, state: int, layout: Layout) -> Writer:
        writer = WRITERS[format_](folder, state, layout)
        write, left = writer.write, 10

        def limited(rows: Sequence[Row]) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                write(rows[:2])
                raise OSError(errno.ENOSPC, "No space left on device")
            write(rows)

        monkeypatch.setattr(writer, "write", limited)
        return writer

    with pytest.raises(OSError, match="No space left"):
        sit(source, output, make=full)
    kept = Workspace(output).load()
    assert kept is not None
    assert 0 < kept.tally.records <= 50
    sit(source, output)
    assert_rows(output, texts)


def test_another_run_is_not_gone_on_with(tmp_path: Path, source: Path) -> None:
    output = tmp_path / "out.jsonl"
    embedder = Local(lambda text: Unavailable("the engine stopped") if "number 50" in text else None)
    with pytest.raises(Unavailable, match="the engine stopped"):
        sit(source, output, embedder=embedder)
    with pytest.raises(Conflict, match=r"--normalize was True, is False.*--restart"):
        sit(source, output, options=EmbedOptions(normalize=False))
    source.write_text("other\n")
    with pytest.raises(Conflict, match=r"size in bytes was .*first MiB was"):
        sit(source, output)
    sit(source, output, restart=True)
    assert_rows(output, ["other"])


def test_a_policy_may_not_change_once_records_failed(tmp_path: Path) -> None:
    source, output = tmp_path / "input.txt", tmp_path / "out.jsonl"
    source.write_text("\n" + "a\n" * 20 + "stop\n")
    stop = Local(lambda text: Unavailable("stopped") if text == "stop" else None)
    with pytest.raises(Unavailable):
        sit(source, output, embedder=stop, on_error="null")
    with pytest.raises(Conflict, match="--on-error was 'null', is 'skip', and 1 have failed"):
        sit(source, output, on_error="skip")


@formats
def test_a_damaged_rest_is_refused_with_the_way_out(
    tmp_path: Path, source: Path, texts: list[str], format_: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "CHECKPOINT_BYTES", 200)
    output = tmp_path / f"out.{format_}"
    stop = Local(lambda text: Unavailable("stopped") if "number 50" in text else None)
    with pytest.raises(Unavailable):
        sit(source, output, embedder=stop)
    for path in Workspace(output).folder.glob("[!j]*"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Conflict, match="damaged; begin anew with --restart"):
        sit(source, output)
    sit(source, output, restart=True)
    assert_rows(output, texts)


def test_a_journal_that_cannot_be_read_is_refused_with_the_way_out(tmp_path: Path, source: Path) -> None:
    folder = Workspace(tmp_path / "out.jsonl").folder
    folder.mkdir()
    (folder / "journal.json").write_text("{")
    with pytest.raises(Conflict, match=r"cannot be read .* --restart"):
        sit(source, tmp_path / "out.jsonl")


def test_two_runs_cannot_write_the_same_output(tmp_path: Path, source: Path) -> None:
    output = tmp_path / "out.jsonl"
    with Workspace(output).locked(), pytest.raises(Conflict, match="another run is writing"):
        sit(source, output)


def test_files_of_others_in_the_folder_stay(tmp_path: Path, source: Path) -> None:
    output = tmp_path / "out.jsonl"
    folder = Workspace(output).folder
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    sit(source, output)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_a_finished_parquet_has_large_row_groups_and_its_notes(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "CHECKPOINT_BYTES", 200)
    output = tmp_path / "out.parquet"
    sit(
        source,
        output,
        make=lambda folder, state, layout: ParquetWriter(folder, state, Layout(WIDTH, notes={"model": "m"})),
    )
    file = pq.ParquetFile(output)
    assert file.num_row_groups == 1
    assert file.schema_arrow.metadata[b"model"] == b"m"


class TestAsking:
    """What becomes of a request that fails."""

    async def ask(self, embedder: Any, *texts: str) -> list[str | None]:
        answers = await ask(embedder, texts, EmbedOptions())
        return [answer.item.error.detail if answer.item.error else None for answer in answers]

    def test_when_every_text_fails_each_gets_its_own_error(self) -> None:
        embedder = Local(lambda text: TextTooLong(f"{text} is too long"))
        said = asyncio.run(self.ask(embedder, "one", "two"))
        assert said == ["one is too long", "two is too long"]

    def test_one_text_that_breaks_the_engine_does_not_stop_the_run(self) -> None:
        embedder = Local(lambda text: Internal("broke") if text == "poison" else None)
        assert asyncio.run(self.ask(embedder, "fine", "poison")) == [None, "broke"]
        assert asyncio.run(self.ask(embedder, "poison")) == ["broke"]

    def test_an_engine_that_fails_for_every_text_stops_the_run(self) -> None:
        embedder = Local(lambda text: Internal("broke"))
        with pytest.raises(Internal):
            asyncio.run(self.ask(embedder, "one", "two"))

    def test_a_failure_that_is_not_the_texts_stops_the_run(self) -> None:
        embedder = Local(lambda text: Unavailable("leaving") if text == "two" else None)
        with pytest.raises(Unavailable, match="leaving"):
            asyncio.run(self.ask(embedder, "one", "two"))

    def test_a_full_queue_is_waited_for(self) -> None:
        class Full(Local):
            async def embed(self, request: EmbedRequest) -> EmbedResponse:
                if len(self.requests) < 3:
                    self.requests.append([])
                    raise Overloaded("no room", retry_after_s=0.0)
                return await super().embed(request)

        assert asyncio.run(self.ask(Full(), "one")) == [None]

    def test_a_queue_that_stays_full_stops_the_run(self) -> None:
        embedder = Local(lambda text: Overloaded("no room", retry_after_s=0.0))
        with pytest.raises(Overloaded):
            asyncio.run(self.ask(embedder, "one"))

    def test_no_texts_ask_nothing(self) -> None:
        embedder = Local()
        assert asyncio.run(self.ask(embedder)) == []
        assert embedder.requests == []


def record(text: str | None) -> Record:
    return Record(text, None, Position())


def test_chunks_are_bounded_in_records_tokens_and_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    short = [record("a")] * 10
    assert [len(c) for c in chunks(iter(short), Bounds(4, 1000, 256))] == [4, 4, 2]
    assert [len(c) for c in chunks(iter(short), Bounds(100, 48, 256))] == [3, 3, 3, 1]
    long = [record("x" * 5000)] * 5
    assert [len(c) for c in chunks(iter(long), Bounds(100, 512, 256))] == [2, 2, 1]
    monkeypatch.setattr(feed_module, "CHUNK_CHARS", 10_000)
    assert [len(c) for c in chunks(iter(long), Bounds(100, 10_000, 256))] == [2, 2, 1]


def test_a_feed_that_stalls_does_not_hold_its_reader_up() -> None:
    stalled, closed = threading.Event(), threading.Event()

    def items() -> Any:
        try:
            yield 1
            stalled.wait(10)
            yield 2
        finally:
            closed.set()

    async def go() -> None:
        feed = Feed(items())
        assert await feed.next() == 1
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(feed.next(), 0.01)
        feed.close()

    began = time.monotonic()
    asyncio.run(go())
    assert time.monotonic() - began < 2
    stalled.set()
    assert closed.wait(2)


@pytest.mark.parametrize("format_", ["npy", "parquet"])
def test_memory_does_not_grow_with_the_input(tmp_path: Path, format_: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 60_000
    one = np.ones(8, dtype=np.float32)
    item = EmbedItem(tokens=1, used_tokens=1, truncated=False, cached=False)

    class Ones:
        async def embed(self, request: EmbedRequest) -> EmbedResponse:
            texts = request.texts
            return EmbedResponse(
                embeddings=[one] * len(texts), items=[item] * len(texts), model="ones", usage=TokenUsage(tokens=1)
            )

    monkeypatch.setattr(run_module, "CHECKPOINT_BYTES", 1 << 18)
    source, output = tmp_path / "input.txt", tmp_path / f"out.{format_}"
    source.write_bytes(b"a line of some length\n" * rows)
    pace = Pace(Bounds(256, 1 << 20, 256), 8)
    tracemalloc.start()
    try:
        tally = sit(source, output, embedder=Ones(), pace=pace, width=8)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert tally.records == rows
    # Held in full, the records alone would take 60,000 × 180 bytes; the reader's own buffer is 1 MiB, twice.
    assert peak < 8 << 20, f"{peak / 2**20:.1f} MiB"


def test_the_journal_survives_its_encoding(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "out.npy")
    journal = Journal(
        facts={"a": 1, "b": None, "c": True, "d": "x"}, on_error="null", position=Position(7, 3), state=128,
        tally=Tally(3, 20, 1, 0, 0.5),
    )  # fmt: skip
    with workspace.locked():
        workspace.save(journal)
        assert workspace.load() == journal
