"""The table of commands. Only the one that is called is imported: the parts of a worker take a second to read."""

from __future__ import annotations

import errno
import io
import sys
from importlib import import_module
from typing import Any, NamedTuple

import typer
from rich.console import Console
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

from phalanx import __version__
from phalanx.edges.listeners import CannotListen
from phalanx.errors import PhalanxError
from phalanx.settings import SettingsError

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What standard output says on a disk that is full, or past a quota."""


class Place(NamedTuple):
    """A function, or the `Typer` of a group, in a module; and what is said of it in a line."""

    module: str
    name: str
    summary: str


COMMANDS = {
    "init": Place("phalanx.cli.setup", "init", "Pull the models, make the database and a first key."),
    "serve": Place("phalanx.cli.serve", "serve", "Serve over HTTP, and over gRPC where GRPC_PORT is set."),
    "work": Place("phalanx.cli.work", "work", "Take jobs from BullMQ's queues in Redis."),
    "doctor": Place("phalanx.cli.doctor", "doctor", "Say what is wrong with this installation, and what to do."),
    "settings": Place("phalanx.cli.variables", "settings", "List the environment variables that are settings."),
    "call": Place("phalanx.cli.call", "call_operation", "Call an operation without a server."),
    "embed": Place("phalanx.cli.embed", "embed", "Turn a file of texts into a file of vectors."),
    "faces": Place("phalanx.cli.faces.app", "app", "Find, embed, compare, enrol and identify faces in pictures."),
    "collections": Place("phalanx.cli.collections", "app", "List, make, search and delete collections, or move them."),
    "models": Place("phalanx.cli.models", "app", "Pull, add, verify, switch and move models."),
    "keys": Place("phalanx.cli.keys", "app", "Create, list, rotate and revoke API keys."),
    "users": Place("phalanx.cli.users", "app", "Make, list, disable and enable users; set their passwords."),
    "usage": Place("phalanx.cli.usage", "app", "Report usage and keep its books."),
    "db": Place("phalanx.cli.db", "app", "Migrate and check the database."),
}


class Commands(TyperGroup):
    """The commands of the table: in a list by their summaries, imported when they are called."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, place in COMMANDS.items():
            self.add_command(TyperCommand(name, help=place.summary))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the name of the command that is called, the command and the words that are left for it."""
        name, listed, rest = super().resolve_command(ctx, args)
        return name, name and listed and imported(name), rest


def imported(name: str) -> Any:
    """Import a command of the table."""
    place = COMMANDS[name]
    found = getattr(import_module(place.module), place.name)
    around = typer.Typer()
    if isinstance(found, typer.Typer):
        around.add_typer(found, name=name, help=place.summary, no_args_is_help=True)
    else:
        around.command(name)(found)
    return get_group(around).commands[name]


app = typer.Typer(
    name="phalanx",
    cls=Commands,
    help="A self-hosted inference platform: one worker, run 1 to N times.\n\n"
    "Every setting is an environment variable: `phalanx settings` lists them.",
    epilog="Begin with `phalanx init`, then `phalanx serve`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"phalanx {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(False, "--version", help="Show the version.", callback=_print_version, is_eager=True),
) -> None:
    """Take the options that come before a command."""


def run() -> None:
    """Run the command that was typed; a failure that is no bug is one plain line, or one a problem, and exit status 1."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name or an ellipsis that the terminal's encoding lacks is no reason to fail; standard error does so anyway.
        sys.stdout.reconfigure(errors="backslashreplace")
    console = Console(stderr=True, highlight=False)
    problems: list[str] = []
    try:
        sys.exit(app())
    except SettingsError as error:
        problems = error.problems
    except PhalanxError as error:
        problems = [error.detail]
    except CannotListen as error:
        problems = [str(error)]
    except UnicodeEncodeError as error:
        problems = [f"{error.object!r} holds bytes that are no UTF-8"]
    except OSError as error:
        if error.errno not in FULL:
            raise
        problems = [f"nothing more can be written: {error.strerror}"]
    for problem in problems:
        console.print(problem, style="red", markup=False, soft_wrap=True)
    sys.exit(1)
