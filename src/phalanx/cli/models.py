"""`phalanx models`: which models there are, which are here, and which version serves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars
from rich.table import Table

from phalanx.errors import InvalidRequest, PhalanxError
from phalanx.models.catalogue import Entry
from phalanx.models.progress import Progress
from phalanx.models.sources import Access, parse_source
from phalanx.models.store import ModelStore
from phalanx.models.version import Installed, Version

app = typer.Typer(
    name="models",
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Pull, verify, switch and move models. Every file is checked against its pinned SHA-256.",
)

Name = Annotated[str, typer.Argument(help="Catalogue name or hub id, for example all-MiniLM-L6-v2.")]
VersionArgument = Annotated[str, typer.Argument(help="A version, as `phalanx models list` shows it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@dataclass(frozen=True)
class StoreOptions:
    """What the root command knows of the store: its folder, and how sources are reached."""

    root: Path | None = None
    access: Access = field(default_factory=Access)


def open_store(context: typer.Context) -> ModelStore:
    """Open the store of `context.obj`: a `StoreOptions` or a folder. Raises `InvalidRequest` for neither."""
    options = context.obj if isinstance(context.obj, StoreOptions) else StoreOptions(context.obj)
    if options.root is None:
        raise InvalidRequest("no model folder is set; give --model-dir DIR or set MODEL_DIR")
    return ModelStore(options.root, access=options.access)


@app.callback()
def choose_folder(
    context: typer.Context,
    model_dir: Annotated[
        Path | None, typer.Option("--model-dir", help="Folder of the models [MODEL_DIR].", file_okay=False)
    ] = None,
) -> None:
    """Replace the store's folder by `--model-dir`."""
    if model_dir is not None:
        access = context.obj.access if isinstance(context.obj, StoreOptions) else Access()
        context.obj = StoreOptions(model_dir, access)


@app.command("list", epilog="Example: phalanx models list --json")
def list_models(context: typer.Context, as_json: AsJson = False) -> None:
    """Show the catalogue, what of it is here, and which version is active."""
    with plain_errors():
        models = open_store(context).models()
        if as_json:
            _print_json([_as_json(model) for model in models])
        else:
            Console().print(_table(models))


@app.command(
    epilog="Examples: phalanx models pull all-MiniLM-L6-v2 · phalanx models pull NAME --from file:/mnt/models"
)
def pull(
    context: typer.Context,
    name: Name,
    source: Annotated[
        str | None,
        typer.Option("--from", help="Ask only this: hf:REPOSITORY@REVISION, https://… or file:PATH."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Begin from nothing, even if it is here.")] = False,
) -> None:
    """Bring a model here, verified; go on with an interrupted pull. Nothing is fetched when it is here already."""
    with plain_errors():
        store = open_store(context)
        entry = store.catalogue.get(name)
        chosen = parse_source(source) if source else None
        with listening() as progress:
            progress.note(_licence(entry))
            version = store.pull(name, progress=progress, force=force, source=chosen)
        Console().print(f"{version.name} {version.version} is ready", highlight=False, soft_wrap=True)


@app.command(epilog="Examples: phalanx models verify · phalanx models verify all-MiniLM-L6-v2")
def verify(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="A model; all that are here if left out.")] = None,
    version: Annotated[str | None, typer.Option("--version", help="One version only.")] = None,
    as_json: AsJson = False,
) -> None:
    """Read every file again and compare it with its pin; exit with 1 when one differs."""
    with plain_errors():
        store = open_store(context)
        names = [name] if name else [model.name for model in store.models() if model.versions]
        reports = [(one, report) for one in names for report in store.verify(one, version)]
        if as_json:
            _print_json(
                [
                    {"name": one, "version": r.version, "file": r.file, "problem": r.problem}
                    for one, r in reports
                ]
            )
        for one, report in [] if as_json else reports:
            line = f"{one} {report.version} {report.file} {report.problem or 'ok'}"
            Console().print(line, style="red" if report.problem else None, highlight=False, soft_wrap=True)
        if any(report.problem for _, report in reports):
            raise typer.Exit(1)


@app.command(epilog="Example: phalanx models activate all-MiniLM-L6-v2 53aa51172d14")
def activate(context: typer.Context, name: Name, version: VersionArgument) -> None:
    """Serve this version, which is verified first. Running workers notice."""
    with plain_errors():
        _say_active(open_store(context).activate(name, version))


@app.command(epilog="Example: phalanx models rollback all-MiniLM-L6-v2")
def rollback(context: typer.Context, name: Name) -> None:
    """Serve what was active before; once more, and it is forward again."""
    with plain_errors():
        _say_active(open_store(context).rollback(name))


@app.command("rm", epilog="Example: phalanx models rm all-MiniLM-L6-v2 53aa51172d14")
def remove(
    context: typer.Context,
    name: Name,
    version: VersionArgument,
    force: Annotated[bool, typer.Option("--force", help="Even if it is active.")] = False,
) -> None:
    """Remove a version; the active one only with --force."""
    with plain_errors():
        open_store(context).remove(name, version, force=force)
        Console().print(f"{name} {version} is removed", highlight=False, soft_wrap=True)


@app.command(epilog="Example: phalanx models export all-MiniLM-L6-v2 minilm.tar")
def export(
    context: typer.Context,
    name: Name,
    path: Annotated[Path, typer.Argument(help="The file to write, or a folder.")],
    version: Annotated[str | None, typer.Option("--version", help="Instead of the active one.")] = None,
) -> None:
    """Write a model to one file, for a machine without a network."""
    with plain_errors(), listening() as progress:
        written = open_store(context).export(name, path, version=version, progress=progress)
        Console().print(str(written), highlight=False, soft_wrap=True)


@app.command("import", epilog="Example: phalanx models import minilm.tar")
def import_bundle(
    context: typer.Context, path: Annotated[Path, typer.Argument(help="A file that export wrote.")]
) -> None:
    """Read a model that `export` wrote; needs no network."""
    with plain_errors():
        with listening() as progress:
            version = open_store(context).import_bundle(path, progress=progress)
        Console().print(f"{version.name} {version.version} is ready", highlight=False, soft_wrap=True)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn what a user can do something about into one red line and exit code 1."""
    try:
        yield
    except (PhalanxError, OSError) as error:
        told = error.detail if isinstance(error, PhalanxError) else str(error)
        Console(stderr=True).print(
            f"Error: {told}", style="red", markup=False, highlight=False, soft_wrap=True
        )
        raise typer.Exit(1) from error


@contextmanager
def listening() -> Iterator[Progress]:
    """Show transfers on standard error: bars on a terminal, else a line for each file."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console) as bars:
        yield _TerminalBars(bars)


class _TerminalBars:
    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._task = TaskID(-1)

    def note(self, message: str) -> None:
        self._bars.console.print(message, markup=False, highlight=False, soft_wrap=True)

    def start(self, file: str, total_bytes: int | None) -> None:
        self._task = self._bars.add_task(file.replace("[", "\\["), total=total_bytes)

    def advance(self, count: int) -> None:
        self._bars.advance(self._task, count)

    def finish(self) -> None:
        self._bars.stop_task(self._task)


class _Lines:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._file = ""
        self._received = 0

    def note(self, message: str) -> None:
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def start(self, file: str, total_bytes: int | None) -> None:
        self._file, self._received = file, 0

    def advance(self, count: int) -> None:
        self._received += count

    def finish(self) -> None:
        self.note(f"{self._file}: {self._received:,} bytes")


def _licence(entry: Entry) -> str:
    return f"{entry.name}: licence {entry.licence.spdx}, {entry.licence.url}. {entry.licence.notice}"


def _say_active(version: Version) -> None:
    Console().print(f"{version.name} {version.version} is active", highlight=False, soft_wrap=True)


def _weights(model: Installed) -> dict[str, float]:
    return {one.version: one.weight for one in model.pointer.versions} if model.pointer else {}


def _as_json(model: Installed) -> dict[str, Any]:
    entry = model.entry
    return {
        "name": model.name,
        "aliases": entry.aliases if entry else [],
        "task": _facts(model).task,
        "dimensions": _facts(model).dimensions,
        "licence": _facts(model).licence.spdx,
        "catalogue_version": entry.pinned_version if entry else None,
        "versions": [
            {
                "version": one.version,
                "sha256": one.sha256,
                "folder": str(one.folder),
                "variant_of": one.variant_of,
            }
            for one in model.versions
        ],
        "active": _weights(model),
    }


def _facts(model: Installed) -> Entry | Version:
    return model.entry or model.versions[-1]


def _table(models: list[Installed]) -> Table:
    table = Table("Model", "Task", "Dim", "Licence", "Versions here", "Active", box=None, header_style="bold")
    for model in models:
        facts = _facts(model)
        here = "\n".join(version.version for version in model.versions)
        table.add_row(
            model.name,
            facts.task,
            str(facts.dimensions or ""),
            facts.licence.spdx,
            here or f"none; phalanx models pull {model.name}",
            "\n".join(_weights(model)),
        )
    return table


def _print_json(value: object) -> None:
    text = msgspec.json.format(msgspec.json.encode(value)).decode()
    Console().print(text, markup=False, highlight=False, soft_wrap=True)
