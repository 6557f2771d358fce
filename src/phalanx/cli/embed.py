"""`phalanx embed`: a file of texts in, a file of vectors out."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from phalanx.cli.bulk.asking import EmbedOptions
from phalanx.cli.bulk.feed import Bounds
from phalanx.cli.bulk.journal import Facts, Journal, Workspace, begin, identify
from phalanx.cli.bulk.parquet import ParquetReader, ParquetWriter
from phalanx.cli.bulk.progress import showing, summary
from phalanx.cli.bulk.readers import Decoding, InputFormat, LineReader, Reader, Source
from phalanx.cli.bulk.readers import format_of as input_format_of
from phalanx.cli.bulk.run import OnError, Pace, Run
from phalanx.cli.bulk.writers import JsonlWriter, Layout, NpyWriter, OutputFormat, Writer
from phalanx.cli.bulk.writers import format_of as output_format_of
from phalanx.cli.options import Force, Restart
from phalanx.cli.worker import call_here, with_app
from phalanx.contract.models import GetModelRequest, Model
from phalanx.contract.text import MAX_TEXTS, EmbedRequest, EmbedResponse
from phalanx.errors import Conflict, InvalidRequest

if TYPE_CHECKING:
    from phalanx.app import App

STANDARD_INPUT = "-"
WINDOW = 8
"""Requests under way at once: enough that the engine finds texts of like length among them."""

SHARE_OF_QUEUE = 0.5
"""Part of the runner's queue that a run fills by its own estimate, so that it is not refused for want of room."""

INTERRUPTED = 130


class Truncation(enum.StrEnum):
    """From which end a text that is too long loses tokens."""

    END = "end"
    START = "start"
    NONE = "none"


class VectorForm(enum.StrEnum):
    """How JSON lines hold a vector."""

    FLOAT = "float"
    BASE64 = "base64"


class DecodingErrors(enum.StrEnum):
    """What to do with bytes that are not UTF-8."""

    STRICT = "strict"
    REPLACE = "replace"


@dataclass(frozen=True, slots=True)
class Task:
    """What the command was asked for."""

    source: Source
    output: Path
    to: OutputFormat
    options: EmbedOptions
    keep_text: bool
    batch: int
    on_error: OnError
    force: bool
    restart: bool
    quiet: bool

    @property
    def can_resume(self) -> bool:
        """Whether the input can be read again: a file can, a pipe cannot."""
        return self.source.path is not None and self.source.path.is_file()


InputArgument = Annotated[
    str,
    typer.Argument(
        metavar="FILE|-",
        help="Texts: .txt, .jsonl, .csv, .tsv (each also .gz), .parquet, or - for standard input.",
    ),
]
OutputPath = Annotated[Path, typer.Option("--out", "-o", help="Vectors: .parquet, .npy or .jsonl.")]
Column = Annotated[str, typer.Option(help="Column or JSON field that holds the text.")]
Format = Annotated[
    InputFormat | None,
    typer.Option("--format", help="Format of the input, if its name does not say [- is txt]."),
]
To = Annotated[OutputFormat | None, typer.Option(help="Format of the output, if its name does not say.")]
ModelName = Annotated[str | None, typer.Option(help="Model, if not the default one.")]
Normalize = Annotated[bool, typer.Option(help="Give vectors the length 1.")]
Dimensions = Annotated[int | None, typer.Option(min=1, help="Keep this many numbers of each vector.")]
Prompt = Annotated[str | None, typer.Option(help="Name of a prompt of the model, put before each text.")]
Truncate = Annotated[Truncation, typer.Option(help="Where to cut a text that is too long; none fails it.")]
Form = Annotated[VectorForm, typer.Option("--output", help="How JSON lines hold a vector.")]
KeepText = Annotated[bool, typer.Option("--keep-text", help="Write the texts too.")]
WithoutVector = Annotated[
    OnError, typer.Option(help="A record without a vector: write null (NaN in npy), skip it, or fail.")
]
Errors = Annotated[DecodingErrors, typer.Option(help="Bytes that are not UTF-8: strict fails the record.")]
Batch = Annotated[int, typer.Option(min=1, max=MAX_TEXTS, help="Most texts in a request.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing unless it fails.")]


def embed(
    file: InputArgument,
    output: OutputPath,
    column: Column = "text",
    format_: Format = None,
    to: To = None,
    model: ModelName = None,
    normalize: Normalize = True,
    dimensions: Dimensions = None,
    prompt: Prompt = None,
    truncate: Truncate = Truncation.END,
    form: Form = VectorForm.FLOAT,
    keep_text: KeepText = False,
    on_error: WithoutVector = OnError.NULL,
    errors: Errors = DecodingErrors.STRICT,
    batch: Batch = 64,
    force: Force = False,
    restart: Restart = False,
    quiet: Quiet = False,
) -> None:
    """Embed a file of any size: memory stays constant, and the same command goes on with an interrupted run.

    Rows keep the input's order. A line of .txt is a row; blank lines of other
    formats are no records. OUT.partial holds what is done so far.

    \b
    Examples:
      phalanx embed reviews.txt -o reviews.npy
      phalanx embed articles.jsonl --column body -o articles.parquet --keep-text
      phalanx embed titles.csv.gz --column title --dimensions 128 -o titles.jsonl
      xzcat texts.xz | phalanx embed - -o texts.parquet --on-error skip
    """
    path = None if file == STANDARD_INPUT else _input(Path(file))
    kind = format_ or (InputFormat.TXT if path is None else input_format_of(path))
    decoding: Decoding = errors.value
    task = Task(
        source=Source(path, kind, column, decoding), output=output, to=to or output_format_of(output),
        options=EmbedOptions(model, normalize, dimensions, prompt, truncate.value, form.value),
        keep_text=keep_text, batch=batch, on_error=on_error, force=force, restart=restart, quiet=quiet,
    )  # fmt: skip
    _check(task)
    _embed(task, Console(stderr=True))


def _input(path: Path) -> Path:
    if not path.exists():
        raise InvalidRequest(f"there is no file {str(path)!r}")
    if path.is_dir():
        raise InvalidRequest(f"{str(path)!r} is a folder; give one file")
    return path


def _check(task: Task) -> None:
    """Refuse, before anything is loaded, what cannot work."""
    path, output = task.source.path, task.output
    if output.is_dir():
        raise InvalidRequest(f"{str(output)!r} is a folder; name a file in it")
    if not output.parent.is_dir():
        raise InvalidRequest(f"there is no folder {str(output.parent)!r} for the output; make it first")
    if path is not None and output.exists() and output.samefile(path):
        raise InvalidRequest(f"{str(output)!r} is the input; give the output another name")
    if output.exists() and not task.force:
        raise Conflict(f"{str(output)!r} exists; give another name, or --force to replace it")
    if task.options.output != "float" and task.to is not OutputFormat.JSONL:
        raise InvalidRequest(f"--output {task.options.output} is for JSON lines; {task.to} holds float32")
    if task.keep_text and task.to is OutputFormat.NPY:
        raise InvalidRequest("--keep-text needs a format with columns, parquet or jsonl; npy holds vectors only")


def _embed(task: Task, console: Console) -> None:
    """Run with the output's folder held; leave it only if it holds something to go on with."""
    reader = _reader(task.source)
    workspace = Workspace(task.output)
    with workspace.locked():
        try:
            with_app(lambda app: _run(app, task, reader, workspace, console), models=True)
        except KeyboardInterrupt:
            console.print(_farewell(task, workspace), style="yellow", highlight=False, markup=False, soft_wrap=True)
            raise typer.Exit(INTERRUPTED) from None
        finally:
            if workspace.folder.exists() and workspace.load() is None:
                workspace.remove()


async def _run(app: App, task: Task, reader: Reader, workspace: Workspace, console: Console) -> None:
    embedder = OperatorEmbedder(app)
    model, width = await _model(app, embedder, task.options)
    notes = {"model": model.id, "version": model.version, "normalized": str(task.options.normalize).lower()}
    layout = Layout(width, task.keep_text, notes)
    facts = _facts(task, model)
    with workspace.told_of_the_disk():
        journal = begin(workspace, facts, on_error=task.on_error, restart=task.restart)
        begun = journal.tally
        if begun.records and not task.quiet:
            console.print(f"Going on after {begun.records:,} rows.", highlight=False, soft_wrap=True)
        with showing(console, reader.total, journal, quiet=task.quiet) as show:
            run = Run(
                reader=reader, embedder=embedder, writer=_writer(task.to, workspace, journal.state, layout),
                journal=journal, save=workspace.save if task.can_resume else _keep_nothing, options=task.options,
                pace=_pace(task.batch, model), show=show,
            )  # fmt: skip
            file, tally = await run.finish()
        workspace.publish(file)
    if not task.quiet:
        words = f"{task.output}: {summary(tally, begun, run.first_failure)}"
        console.print(words, style="yellow" if tally.failed else None, highlight=False, markup=False, soft_wrap=True)


class OperatorEmbedder:
    """Embeds as the operator of this machine.

    It asks through the row `text.embed_stream`, since the calls of `text.embed` have a deadline, and one of many that
    wait behind each other would miss it.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._row = app.operations["text.embed_stream"]

    async def embed(self, request: EmbedRequest) -> EmbedResponse:
        """Return one embedding a text; raises as the row does."""

        async def once() -> AsyncIterator[EmbedRequest]:
            yield request

        answers: list[EmbedResponse] = [answer async for answer in await call_here(self._app, self._row, once())]
        return answers[0]


async def _model(app: App, embedder: OperatorEmbedder, options: EmbedOptions) -> tuple[Model, int]:
    """Return what is known of the model, and the width of its vectors; a first text tries all options out."""
    request = EmbedRequest(texts=["probe"], **options._replace(output="float")._asdict())
    answer = await embedder.embed(request)
    model: Model = await call_here(app, app.operations["models.get"], GetModelRequest(id=answer.model))
    return model, len(answer.embeddings[0])


def _pace(batch: int, model: Model) -> Pace:
    # The worker's parts are here by now; help, and what is wrong input, are told without them.
    from phalanx.app import MAX_WAITING_TOKENS

    tokens = int(MAX_WAITING_TOKENS * SHARE_OF_QUEUE) // WINDOW
    return Pace(Bounds(records=batch, tokens=tokens, tokens_of_text=model.max_tokens), WINDOW)


def _facts(task: Task, model: Model) -> Facts:
    """Return all that the rows depend on."""
    source, options = task.source, task.options
    path = source.path
    return {
        **(identify(path) if path is not None and task.can_resume else {"the input": str(path or STANDARD_INPUT)}),
        "its format": source.format.value,
        "--column": None if source.format is InputFormat.TXT else source.column,
        "--errors": source.decoding,
        "the model": model.id,
        "its version": model.version,
        "its SHA-256": model.sha256,
        "its precision": model.precision,
        "--normalize": options.normalize,
        "--dimensions": options.dimensions,
        "--prompt": options.prompt,
        "--truncate": options.truncate,
        "the output's format": task.to.value,
        "--output": options.output,
        "--keep-text": task.keep_text,
    }


def _reader(source: Source) -> Reader:
    return ParquetReader(source) if source.format is InputFormat.PARQUET else LineReader(source)


def _writer(to: OutputFormat, workspace: Workspace, state: int, layout: Layout) -> Writer:
    writers: dict[OutputFormat, Callable[[Path, int, Layout], Writer]] = {
        OutputFormat.JSONL: JsonlWriter,
        OutputFormat.NPY: NpyWriter,
        OutputFormat.PARQUET: ParquetWriter,
    }
    return writers[to](workspace.folder, state, layout)


def _keep_nothing(journal: Journal) -> None:
    """Save no journal: a pipe cannot be read again."""


def _farewell(task: Task, workspace: Workspace) -> str:
    journal = workspace.load()
    if journal is not None:
        return f"Interrupted after {journal.tally.records:,} rows; the same command goes on from there."
    return "Interrupted." if task.can_resume else "Interrupted; a pipe cannot be read again, so nothing is kept."
