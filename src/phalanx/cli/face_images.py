"""`phalanx collections reembed NAME --images FOLDER`: bring the images of enrolled faces to where their gallery moves."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from phalanx.cli.asking import Asks, patiently
from phalanx.cli.faces.pictures import Picture, collect
from phalanx.contract.collections import ReembedRequest, ReembedView
from phalanx.contract.gallery import ReembedFacesRequest, ReembedFacesResponse
from phalanx.errors import InvalidRequest, NoFace, TooLarge, Unavailable, UnreadableInput, UnsupportedMediaType

AT_ONCE = 4
"""Images that are under way at once."""


async def bring_images(
    asks: Asks, request: ReembedRequest, folders: list[Path], *, leave_out: bool, quiet: bool
) -> ReembedView:
    """Begin a move, or go on with it, bring every picture of the folders, and be done if all faces have arrived.

    What cannot be read, or shows no face where one was enrolled, is said on standard error. Raises `Unavailable` when faces
    are missing in the end, unless they are to be left out; the move then stays open.
    """
    pictures = collect([str(folder) for folder in folders])
    view: ReembedView = await asks.ask("collections.reembed", request)
    turn, failed = asyncio.Semaphore(AT_ONCE), 0

    async def bring(picture: Picture) -> None:
        nonlocal failed
        async with turn:
            try:
                data = await asyncio.to_thread(picture.read)
                carried: ReembedFacesResponse = await patiently(
                    lambda: asks.ask(
                        "faces.reembed",
                        ReembedFacesRequest(
                            name=request.name, image=asks.image(data), organisation=request.organisation
                        ),
                    )
                )
            except (InvalidRequest, NoFace, TooLarge, UnreadableInput, UnsupportedMediaType) as error:
                failed += 1
                typer.echo(f"{picture.name}: {error.detail}", err=True)
                return
            finally:
                progress.advance(bar)
            if carried.carried < carried.faces:
                lost = carried.faces - carried.carried
                typer.echo(f"{picture.name}: {lost} of {carried.faces} enrolled faces are not found in it", err=True)

    with Progress(
        TextColumn(escape(request.name)), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=Console(stderr=True), disable=quiet or not sys.stderr.isatty(),
    ) as progress:  # fmt: skip
        bar = progress.add_task(request.name, total=len(pictures))
        if view.state == "waiting":
            for outcome in await asyncio.gather(*map(bring, pictures), return_exceptions=True):
                if outcome is not None:
                    raise outcome
    view = await asks.ask("collections.reembed", request)
    if view.state == "settled":
        return view
    missing = view.points - view.moved
    if leave_out:
        done: ReembedView = await asks.ask("collections.reembed", _complete(request))
        typer.echo(f"{missing} faces, of which no image was brought, are left out.", err=True)
        return done
    raise Unavailable(
        f"{view.moved} of {view.points} faces have arrived; the images of {missing} are not in these folders, or could not "
        f"be used ({failed} could not). The collection goes on answering as before. Name further folders, or be done without "
        "them by --leave-out-missing"
    )


def _complete(request: ReembedRequest) -> ReembedRequest:
    return ReembedRequest(
        name=request.name, model=request.model, version=request.version, organisation=request.organisation,
        detector=request.detector, images="complete",
    )  # fmt: skip
