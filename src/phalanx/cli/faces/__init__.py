"""`phalanx faces`: faces of pictures and folders, from the command line."""

from __future__ import annotations

import typer

from phalanx.cli.faces.commands import compare, detect, embed

app = typer.Typer(help="Find, embed and compare the faces of pictures and folders.", no_args_is_help=True)
app.command("detect")(detect)
app.command("embed")(embed)
app.command("compare")(compare)
