"""`phalanx faces`: its commands."""

from __future__ import annotations

import typer

from phalanx.cli.faces.commands import compare, detect, embed
from phalanx.cli.faces.gallery import enrol, identify

app = typer.Typer()
app.command("detect")(detect)
app.command("embed")(embed)
app.command("compare")(compare)
app.command("enrol")(enrol)
app.command("identify")(identify)
