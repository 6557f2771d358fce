"""`phalanx embed` as it is typed: on a worker of the test's own, and once on the real model."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from phalanx.cli import embed as command
from phalanx.cli.bulk import progress, readers
from phalanx.cli.bulk.journal import Journal, Tally, Workspace
from phalanx.cli.bulk.records import Position
from phalanx.cli.root import app as command_line
from phalanx.contract.models import GetModelRequest, Model
from phalanx.contract.text import EmbedItem, EmbedRequest, EmbedResponse, TokenUsage
from phalanx.errors import Conflict, InvalidRequest, PhalanxError, Unavailable

GOLDEN = Path(__file__).parents[2] / "golden" / "data"
WIDTH = 6


class Worker:
    """Answers the two rows that the command calls. `fails` is raised for texts that hold its key."""

    def __init__(self) -> None:
        self.operations = {"text.embed_stream": "text.embed_stream", "models.get": "models.get"}
        self.requests: list[EmbedRequest] = []
        self.fails: dict[str, BaseException] = {}

    def serve(self, work: Callable[[Any], Coroutine[Any, Any, None]], *, models: bool) -> None:
        assert models
        asyncio.run(work(self))

    async def call(self, app: Any, row: str, request: Any) -> Any:
        assert app is self
        if row == "models.get":
            assert isinstance(request, GetModelRequest)
            return Model(id=request.id, version="1", sha256="ab", dimensions=WIDTH, max_tokens=256, precision="f32")
        return self._answers(request)

    async def _answers(self, requests: AsyncIterator[EmbedRequest]) -> AsyncIterator[EmbedResponse]:
        async for request in requests:
            self.requests.append(request)
            for key, error in self.fails.items():
                if any(key in str(text) for text in request.texts):
                    raise error
            yield EmbedResponse(
                embeddings=[np.full(request.dimensions or WIDTH, len(text), np.float32) for text in request.texts],
                items=[EmbedItem(tokens=3, used_tokens=3, truncated=False, cached=False) for _ in request.texts],
                model="small",
                usage=TokenUsage(tokens=3),
            )


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Worker:
    worker = Worker()

    monkeypatch.setattr(command, "with_app", worker.serve)
    monkeypatch.setattr(command, "call_here", worker.call)
    monkeypatch.chdir(tmp_path)
    return worker


def run(*words: str) -> Result:
    return CliRunner().invoke(command_line, ["embed", *words])


def refused(*words: str) -> PhalanxError:
    """Run a command that has to be refused; `main` prints the error's sentence."""
    error = run(*words).exception
    assert isinstance(error, PhalanxError), error
    return error


def write(name: str, body: str) -> None:
    data = body.encode()
    Path(name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)


def test_a_column_of_packed_csv_becomes_parquet(worker: Worker) -> None:
    write("in.csv.gz", "id,title\n1,aa\n2,\n3,cccc\n")
    result = run("in.csv.gz", "--column", "title", "-o", "out.parquet", "--keep-text")
    assert result.exit_code == 0, result.exception
    table = pq.read_table("out.parquet")
    assert table["text"].to_pylist() == ["aa", "", "cccc"]
    assert table["embedding"].to_pylist() == [[2.0] * WIDTH, None, [4.0] * WIDTH]
    assert table.schema.metadata == {b"model": b"small", b"version": b"1", b"normalized": b"true"}
    assert "out.parquet: 3 rows in" in result.stderr
    assert "1 failed; the first: line 3: the text is empty or white space only" in result.stderr
    assert sorted(path.name for path in Path().iterdir()) == ["in.csv.gz", "out.parquet"]


def test_every_option_reaches_the_requests(worker: Worker) -> None:
    write("in.txt", "a\nb\nc\n")
    words = "--model m --no-normalize --dimensions 4 --prompt query --truncate start --output base64 --batch 2"
    assert run("in.txt", "-o", "out.jsonl", *words.split()).exit_code == 0
    probe, first, last = worker.requests
    wanted = EmbedRequest(
        texts=["a", "b"], model="m", normalize=False, dimensions=4, prompt="query", truncate="start", output="base64"
    )
    assert first == wanted
    assert (last.texts, probe.output) == (["c"], "float")


def test_standard_input_is_text_unless_said_otherwise(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    for body, more, count in ((b"a\nb\n", (), 2), (b'"a"\n', ("--format", "jsonl"), 1)):
        ours, theirs = os.pipe()
        monkeypatch.setattr(readers, "STDIN", ours)
        os.write(theirs, body)
        os.close(theirs)
        assert run("-", "-o", "out.npy", "--force", *more).exit_code == 0
        os.close(ours)
        assert np.load("out.npy").shape == (count, WIDTH)


def test_quiet_says_nothing(worker: Worker) -> None:
    write("in.txt", "a\n")
    result = run("in.txt", "-o", "out.npy", "--quiet")
    assert (result.exit_code, result.output) == (0, "")


def test_a_run_that_was_stopped_goes_on_and_tells_from_where(worker: Worker) -> None:
    write("in.txt", "a\n" * 40 + "stop\n")
    worker.fails["stop"] = Unavailable("the engine has stopped")
    words = ("in.txt", "-o", "out.npy", "--batch", "4")
    assert refused(*words) is worker.fails["stop"]
    assert not Path("out.npy").exists()
    worker.fails.clear()
    result = run(*words)
    assert "Going on after 40 rows." in result.stderr
    assert np.load("out.npy").shape == (41, WIDTH)


def test_ctrl_c_ends_with_status_130_and_what_to_do(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    write("in.txt", "a\n" * 40 + "stop\n")
    worker.fails["stop"] = Unavailable("stands for Ctrl-C")

    def interrupted(work: Any, *, models: bool) -> None:
        with pytest.raises(Unavailable):
            worker.serve(work, models=models)
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "with_app", interrupted)
    result = run("in.txt", "-o", "out.npy", "--batch", "4")
    assert result.exit_code == 130
    assert result.stderr == "Interrupted after 40 rows; the same command goes on from there.\n"


def test_a_pipe_that_is_interrupted_leaves_nothing(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(work: Any, *, models: bool) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "with_app", interrupted)
    result = run("-", "-o", "out.npy")
    assert result.exit_code == 130
    assert result.stderr == "Interrupted; a pipe cannot be read again, so nothing is kept.\n"
    assert list(Path().iterdir()) == []


def test_a_worker_that_cannot_start_leaves_nothing(worker: Worker) -> None:
    write("in.txt", "a\n")
    worker.fails["probe"] = Unavailable("the model is not here; run: phalanx models pull small")
    assert "phalanx models pull" in refused("in.txt", "-o", "out.npy").detail
    assert [path.name for path in Path().iterdir()] == ["in.txt"]


def test_force_replaces_the_output_only_at_the_end(worker: Worker) -> None:
    write("in.txt", "a\n" * 20 + "stop\n")
    write("out.npy", "old")
    worker.fails["stop"] = Unavailable("stopped")
    refused("in.txt", "-o", "out.npy", "--batch", "2", "--force")
    assert Path("out.npy").read_text() == "old"
    worker.fails.clear()
    assert run("in.txt", "-o", "out.npy", "--force").exit_code == 0
    assert np.load("out.npy").shape == (21, WIDTH)


def test_a_changed_option_is_refused_until_restart(worker: Worker) -> None:
    write("in.txt", "a\n" * 20 + "stop\n")
    worker.fails["stop"] = Unavailable("stopped")
    refused("in.txt", "-o", "out.npy", "--batch", "2")
    worker.fails.clear()
    words = ("in.txt", "-o", "out.npy", "--dimensions", "2")
    assert "--dimensions was None, is 2" in refused(*words).detail
    assert run(*words, "--restart").exit_code == 0
    assert np.load("out.npy").shape == (21, 2)


@pytest.mark.parametrize(
    ("words", "kind", "said"),
    [
        (["none.txt", "-o", "out.npy"], InvalidRequest, "there is no file 'none.txt'"),
        (["folder", "-o", "out.npy"], InvalidRequest, "'folder' is a folder; give one file"),
        (["in.txt", "-o", "folder", "--to", "npy"], InvalidRequest, "'folder' is a folder; name a file in it"),
        (["in.txt", "-o", "none/out.npy"], InvalidRequest, "there is no folder 'none'"),
        (["in.txt", "-o", "in.txt", "--to", "jsonl"], InvalidRequest, "'in.txt' is the input"),
        (["in.txt", "-o", "old.npy"], Conflict, "'old.npy' exists; give another name, or --force"),
        (["in.docx", "-o", "out.npy"], InvalidRequest, "does not say what is in the file"),
        (["in.txt", "-o", "out.bin"], InvalidRequest, "does not say what to write"),
        (["in.txt", "-o", "out.npy", "--output", "base64"], InvalidRequest, "--output base64 is for JSON lines"),
        (["in.txt", "-o", "out.npy", "--keep-text"], InvalidRequest, "--keep-text needs a format with columns"),
        (["-", "-o", "out.npy", "--format", "parquet"], InvalidRequest, "cannot be read from a pipe"),
        (["in.txt", "-o", "x" * 250 + ".npy"], Unavailable, "cannot be written: File name too long"),
    ],
)
def test_what_cannot_work_is_refused_before_a_model_is_loaded(
    worker: Worker, words: list[str], kind: type[PhalanxError], said: str
) -> None:
    Path("folder").mkdir()
    for name in ("in.txt", "in.docx", "old.npy"):
        write(name, "a\n")
    before = sorted(Path().iterdir())
    error = refused(*words)
    assert isinstance(error, kind)
    assert said in error.detail
    assert worker.requests == []
    assert sorted(Path().iterdir()) == before


def test_a_disk_that_takes_no_more_is_told_with_what_is_kept(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    write("in.txt", "a\n")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Workspace, "publish", full)
    error = refused("in.txt", "-o", "out.npy")
    assert "'out.npy' cannot be written: No space left on device; what is done is kept in 'out.npy.partial'" in str(
        error
    )


def test_the_help_has_examples() -> None:
    result = run("--help")
    assert "phalanx embed reviews.txt -o reviews.npy" in result.output


class TestProgress:
    """What is said while it runs."""

    now = Tally(records=1500, tokens=30_000, seconds=12.0)
    begun = Journal({}, "null", Position(20, 2), tally=Tally(records=500, tokens=10_000, seconds=2.0))

    def shown(self, monkeypatch: pytest.MonkeyPatch, *, terminal: bool, total: int | None, quiet: bool = False) -> str:
        monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
        out = io.StringIO()
        console = Console(file=out, force_terminal=terminal, width=120, color_system=None)
        with progress.showing(console, total, self.begun, quiet=quiet) as show:
            show(self.now, Position(50, 5))
        return out.getvalue()

    def test_a_line_tells_rows_rates_and_share(self, monkeypatch: pytest.MonkeyPatch) -> None:
        said = self.shown(monkeypatch, terminal=False, total=200)
        assert said == "1,500 rows · 100 rows/s · 2,000 tokens/s · 25%\n"

    def test_without_a_known_end_there_is_no_share(self, monkeypatch: pytest.MonkeyPatch) -> None:
        said = self.shown(monkeypatch, terminal=False, total=None)
        assert said == "1,500 rows · 100 rows/s · 2,000 tokens/s\n"

    @pytest.mark.parametrize("total", [200, None])
    def test_a_terminal_has_a_bar(self, monkeypatch: pytest.MonkeyPatch, total: int | None) -> None:
        said = self.shown(monkeypatch, terminal=True, total=total)
        assert "1,500 rows · 100 rows/s · 2,000 tokens/s" in said
        assert "━" in said

    def test_quiet_has_neither(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.shown(monkeypatch, terminal=True, total=200, quiet=True) == ""

    @pytest.mark.parametrize(
        ("seconds", "words"),
        [(0.0, "0.0 s (0 rows/s)"), (90.04, "90.0 s"), (3599.9, "1 h 00 min"), (200, "3 min 20 s")],
    )
    def test_the_summary_speaks_of_time_as_people_do(self, seconds: float, words: str) -> None:
        assert words in progress.summary(Tally(seconds=seconds), Tally(), "")


def test_the_real_model_gives_the_reference_vectors(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (GOLDEN / "minilm_texts.jsonl").read_text().splitlines()[:40]
    source, output = tmp_path / "in.jsonl", tmp_path / "out.parquet"
    source.write_text("\n".join(lines))
    monkeypatch.setenv("MODEL_DIR", str(models_dir))
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    result = run(str(source), "-o", str(output))
    assert result.exit_code == 0, result.exception
    table = pq.read_table(output)
    vectors = np.stack(table["embedding"].to_numpy())
    cosines = np.sum(vectors * np.load(GOLDEN / "minilm_texts.npy")[:40], axis=1)
    assert cosines.min() >= 0.9999
    assert [min(tokens, 256) for tokens in table["tokens"].to_pylist()] == [
        json.loads(line)["tokens"] for line in lines
    ]
