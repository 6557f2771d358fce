"""`phalanx models`: which models there are, which are here, and which version serves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console

from phalanx.cli import add_model, quantize
from phalanx.cli.model_store import Name, StoreOptions, listening, open_store, pull_into
from phalanx.cli.options import AsJson
from phalanx.cli.tables import print_table
from phalanx.errors import InvalidRequest
from phalanx.models.catalogue import Entry
from phalanx.models.sources import parse_source
from phalanx.models.version import Installed, Version
from phalanx.settings import load

app = typer.Typer()
app.command("add", epilog=add_model.EXAMPLE)(add_model.add)
app.command("quantize", epilog=quantize.EXAMPLE)(quantize.quantize)

VersionArgument = Annotated[str, typer.Argument(help="A version, as `phalanx models list` shows it.")]


@app.callback()
def choose_folder(
    context: typer.Context,
    model_dir: Annotated[
        Path | None,
        typer.Option(help="Folder of the models, for MODEL_DIR.", file_okay=False),
    ] = None,
) -> None:
    """Replace the store's folder by `--model-dir`."""
    if model_dir is not None:
        context.obj = replace(context.obj or StoreOptions.of(load().settings), root=model_dir)


@app.command("list", epilog="Example: phalanx models list --json")
def list_models(context: typer.Context, as_json: AsJson = False) -> None:
    """Show the catalogue, what of it is here, and which version is active."""
    models = open_store(context).models()
    if as_json:
        _print_json([_as_json(model) for model in models])
    else:
        head = ("model", "task", "dim", "licence", "versions (* active)")
        print_table(head, [_row(model) for model in models], spare=("licence", "dim", "task"))


@app.command(epilog="Examples: phalanx models pull all-MiniLM-L6-v2 · phalanx models pull NAME --from file:/mnt/models")
def pull(
    context: typer.Context,
    name: Name,
    source: Annotated[
        str | None,
        typer.Option("--from", help="Ask only this: hf:REPOSITORY@REVISION, https://… or file:PATH."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Begin from nothing, even if it is here.")] = False,
) -> None:
    """Bring a model here, verified, going on with what was interrupted. Fetches nothing when it is here."""
    version = pull_into(open_store(context), name, force=force, source=parse_source(source) if source else None)
    Console().print(f"{version.name} {version.version} is ready", highlight=False, soft_wrap=True)


@app.command(epilog="Examples: phalanx models verify · phalanx models verify all-MiniLM-L6-v2")
def verify(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="A model; all that are here if left out.")] = None,
    version: Annotated[str | None, typer.Option("--version", help="One version only.")] = None,
    as_json: AsJson = False,
) -> None:
    """Read every file again and compare it with its pin; exit with 1 when one differs."""
    store = open_store(context)
    names = [name] if name else [model.name for model in store.models() if model.versions]
    reports = [(one, report) for one in names for report in store.verify(one, version)]
    if as_json:
        _print_json([{"name": one, "version": r.version, "file": r.file, "problem": r.problem} for one, r in reports])
    for one, report in [] if as_json else reports:
        line = f"{one} {report.version} {report.file} {report.problem or 'ok'}"
        Console().print(line, style="red" if report.problem else None, highlight=False, soft_wrap=True)
    if any(report.problem for _, report in reports):
        raise typer.Exit(1)


@app.command(
    epilog="Examples: phalanx models activate all-MiniLM-L6-v2 53aa51172d14 · phalanx models activate NAME V1=90 V2=10"
)
def activate(
    context: typer.Context,
    name: Name,
    versions: Annotated[
        list[str],
        typer.Argument(
            metavar="VERSION", help="A version as `phalanx models list` shows it, or several, each =WEIGHT."
        ),
    ],
) -> None:
    """Serve this version, or share the callers out among several by weight. They are verified first; workers notice."""
    active = open_store(context).activate_shares(name, _shares(versions))
    if len(active) == 1:
        _say_active(active[0].version)
        return
    total = sum(weight for _, weight in active)
    for version, weight in active:
        said = f"{version.name} {version.version} has {weight / total:.3g} of the callers"
        Console().print(said, highlight=False, soft_wrap=True)


def _shares(versions: list[str]) -> dict[str, float]:
    """Read `VERSION` or `VERSION=WEIGHT`. Raises `InvalidRequest`."""
    found: dict[str, float] = {}
    for text in versions:
        version, equals, weight = text.partition("=")
        if not equals and len(versions) > 1:
            raise InvalidRequest(f"{text!r} has no weight; of several versions each needs one, as {text}=50")
        if version in found:
            raise InvalidRequest(f"the version {version} is named twice")
        try:
            found[version] = float(weight) if equals else 1.0
        except ValueError:
            raise InvalidRequest(f"{weight!r} is no weight; write {version}=90") from None
    return found


@app.command(epilog="Example: phalanx models rollback all-MiniLM-L6-v2")
def rollback(context: typer.Context, name: Name) -> None:
    """Serve what was active before; once more, and it is forward again."""
    _say_active(open_store(context).rollback(name))


@app.command("rm", epilog="Example: phalanx models rm all-MiniLM-L6-v2 53aa51172d14")
def remove(
    context: typer.Context,
    name: Name,
    version: VersionArgument,
    force: Annotated[bool, typer.Option("--force", help="Even if it is active.")] = False,
) -> None:
    """Remove a version; the active one only with --force."""
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
    with listening() as progress:
        written = open_store(context).export(name, path, version=version, progress=progress)
        Console().print(str(written), highlight=False, soft_wrap=True)


@app.command("import", epilog="Example: phalanx models import minilm.tar")
def import_bundle(
    context: typer.Context, path: Annotated[Path, typer.Argument(help="A file that export wrote.")]
) -> None:
    """Read a model that `export` wrote; needs no network."""
    with listening() as progress:
        version = open_store(context).import_bundle(path, progress=progress)
    Console().print(f"{version.name} {version.version} is ready", highlight=False, soft_wrap=True)


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


def _row(model: Installed) -> tuple[str, ...]:
    facts, active = _facts(model), _weights(model)
    here = [_starred(active, one.version) for one in model.versions]
    dimensions = "" if facts.dimensions is None else str(facts.dimensions)
    return model.name, facts.task, dimensions, facts.licence.spdx, "\n".join(here) or "  not pulled"


def _starred(active: dict[str, float], version: str) -> str:
    """Return a version, with a star if it is active and its share where it has not all callers."""
    if version not in active:
        return f"  {version}"
    return f"* {version}" + ("" if len(active) == 1 else f" {active[version] / sum(active.values()):.0%}")


def _print_json(value: object) -> None:
    text = msgspec.json.format(msgspec.json.encode(value)).decode()
    Console().print(text, markup=False, highlight=False, soft_wrap=True)
