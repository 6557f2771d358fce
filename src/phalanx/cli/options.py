"""Options that several commands have, worded once."""

from __future__ import annotations

from typing import Annotated

import typer

Url = Annotated[str | None, typer.Option(help="Ask the worker at this address, not this process.")]
Key = Annotated[
    str | None, typer.Option(metavar="KEY|@FILE", help="Its API key; @FILE keeps it out of the process list.")
]
Organisation = Annotated[str | None, typer.Option(help="Whose it is, where several have one of that name.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the output if it exists.")]
Restart = Annotated[bool, typer.Option("--restart", help="Begin anew, forget an interrupted run.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing of progress on standard error.")]
