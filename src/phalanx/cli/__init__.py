"""The command line: `phalanx --help`."""

from __future__ import annotations

import sys

import typer
from rich.console import Console

from phalanx import __version__
from phalanx.cli import (
    add_model,
    call,
    collections,
    db,
    doctor,
    embed,
    keys,
    models,
    quantize,
    serve,
    setup,
    usage,
    users,
    work,
)
from phalanx.cli.faces import app as faces
from phalanx.edges.listeners import CannotListen
from phalanx.errors import PhalanxError
from phalanx.settings import SettingsError

app = typer.Typer(
    name="phalanx",
    help="A self-hosted inference platform: one worker, run 1 to N times.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(keys.app, name="keys")
models.app.command("add", epilog=add_model.EXAMPLE)(add_model.add)
models.app.command("quantize", epilog=quantize.EXAMPLE)(quantize.quantize)
app.add_typer(models.app, name="models")
app.add_typer(collections.app, name="collections")
app.add_typer(db.app, name="db")
app.add_typer(usage.app, name="usage")
app.add_typer(users.app, name="users")
app.command("serve")(serve.serve)
app.command("work")(work.work)
app.command("doctor", epilog="Example: PORT=9000 phalanx doctor")(doctor.doctor)
app.command("init", epilog="Example: DATA_DIR=/srv/phalanx phalanx init")(setup.init)
app.command("embed")(embed.embed)
app.add_typer(faces.app, name="faces")
app.command("call")(call.call_operation)
app.command("settings", epilog="Example: phalanx settings | grep REDIS")(setup.settings)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"phalanx {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(False, "--version", help="Show the version.", callback=_print_version, is_eager=True),
) -> None:
    """Every setting is an environment variable: `phalanx settings` lists them."""


def main() -> None:
    """Run the command line; a failure that is no bug is one plain line, or one a problem, and exit status 1."""
    console = Console(stderr=True, highlight=False)
    try:
        app()
    except SettingsError as error:
        for problem in error.problems:
            console.print(problem, style="red", markup=False, soft_wrap=True)
        sys.exit(1)
    except (PhalanxError, CannotListen) as error:
        said = error.detail if isinstance(error, PhalanxError) else str(error)
        console.print(said, style="red", markup=False, soft_wrap=True)
        sys.exit(1)
