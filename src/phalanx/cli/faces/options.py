"""The options that the commands about faces share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from phalanx.cli.asking import Whom
from phalanx.cli.asking import whom as whom_of
from phalanx.cli.faces.lines import check_output
from phalanx.contract.faces import MIN_CONFIDENCE
from phalanx.errors import InvalidRequest

Paths = Annotated[
    list[str],
    typer.Argument(
        metavar="PATH", help="Pictures, folders with all below them, or - for one picture on standard input."
    ),
]
Confidence = Annotated[float, typer.Option(min=MIN_CONFIDENCE, max=1, help="Least score of a face.")]
DetectorOption = Annotated[
    str,
    typer.Option(
        help="auto: near and far, and groups; full: no groups; short: near ones; tiled: small ones; or a detector's name."
    ),
]
ModelName = Annotated[str | None, typer.Option(help="Model of face vectors, if not the default one.")]
OutputPath = Annotated[
    Path | None, typer.Option("--output", "-o", help="Write JSON lines here; an interrupted run goes on.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON lines on a terminal too.")]
Draw = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Write each picture here with boxes, landmarks and confidences.")
]


@dataclass(frozen=True, slots=True)
class Sitting:
    """What every command is told: where lines go, how much is said, whom to ask."""

    output: Path | None
    as_json: bool
    quiet: bool
    force: bool
    restart: bool
    whom: Whom


def sitting(
    *, output: Path | None, as_json: bool, quiet: bool, force: bool, restart: bool, url: str | None, key: str | None
) -> Sitting:
    """Return what was typed, checked. Raises `InvalidRequest`, `Conflict`."""
    whom = whom_of(url, key)
    if output is None and (force or restart):
        raise InvalidRequest("--force and --restart go with --output")
    if output is not None:
        check_output(output, force=force)
    return Sitting(output, as_json, quiet, force, restart, whom)
