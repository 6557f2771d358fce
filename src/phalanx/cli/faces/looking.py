"""What all commands about faces do with a folder of pictures."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import typer
from rich.console import Console

from phalanx.cli.asking import Asks, asking
from phalanx.cli.bulk.journal import Facts, Tally, Workspace
from phalanx.cli.faces.lines import Output, Spoken, at_hand, keeping
from phalanx.cli.faces.options import Sitting
from phalanx.cli.faces.pictures import Picture
from phalanx.cli.faces.run import Work, run, showing, summary

FAILED = 1
INTERRUPTED = 130


def look(
    pictures: Sequence[Picture],
    sitting: Sitting,
    facts: Facts,
    make_work: Callable[[Asks], Work],
    *,
    vectors: bool = False,
) -> None:
    """Run over pictures with the work that `make_work` makes; exit status 1 when some failed.

    `facts` are the options that decide what a line says, `vectors` says that the work is about a collection.
    """
    console = Console(stderr=True, highlight=False)
    with ExitStack() as held:
        workspace = held.enter_context(at_hand(sitting.output)) if sitting.output else None
        try:
            tally = asking(
                sitting.whom, lambda asks: _look(pictures, sitting, facts, make_work, workspace, asks),
                models="faces", vectors=vectors,
            )  # fmt: skip
        except KeyboardInterrupt:
            kept = workspace.load() if workspace else None
            words = f" after {kept.tally.records:,} pictures; the same command goes on from there" if kept else ""
            console.print(f"Interrupted{words}.", style="yellow", markup=False, soft_wrap=True)
            raise typer.Exit(INTERRUPTED) from None
    if tally.failed:
        raise typer.Exit(FAILED)


async def _look(
    pictures: Sequence[Picture],
    sitting: Sitting,
    facts: Facts,
    make_work: Callable[[Asks], Work],
    workspace: Workspace | None,
    asks: Asks,
) -> Tally:
    console = Console(stderr=True, highlight=False)

    def say(words: str) -> None:
        console.print(words, style="yellow", markup=False, soft_wrap=True)

    def note(words: str) -> None:
        if not sitting.quiet:
            console.print(words, markup=False, soft_wrap=True)

    with ExitStack() as held:
        if workspace is None:
            output: Output = Spoken(as_json=sitting.as_json or not sys.stdout.isatty())
        else:
            facts = {**facts, **asks.facts(), "the pictures": digest(pictures)}
            output = held.enter_context(keeping(workspace, facts, restart=sitting.restart, note=note))
        begun = output.done
        # A bar would be torn by words that are printed on the same terminal.
        bar = console.is_terminal and (workspace is not None or not sys.stdout.isatty())
        with showing(console, len(pictures), begun, bar=bar, quiet=sitting.quiet) as show:
            tally = await run(pictures, make_work(asks), output, show, say)
    if not sitting.quiet and (len(pictures) > 1 or workspace is not None):
        console.print(summary(tally, begun), soft_wrap=True, style="yellow" if tally.failed else None)
    return tally


def digest(pictures: Sequence[Picture]) -> str:
    """Return what changes when the list of pictures or one of them does."""
    seen = hashlib.sha256()
    for picture in pictures:
        seen.update(f"{picture.identity()}\n".encode("utf-8", "surrogateescape"))
    return f"{len(pictures)} with digest {seen.hexdigest()[:16]}"
