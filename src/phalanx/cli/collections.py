"""`phalanx collections`: list, show, create, delete and search collections, and move them to another model."""

from __future__ import annotations

import asyncio
import enum
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from phalanx.cli.asking import Asks, all_collections, asking, request_of, whom
from phalanx.cli.face_images import bring_images
from phalanx.cli.options import AsJson, Key, Organisation, Quiet, Url
from phalanx.cli.tables import print_table
from phalanx.contract.collections import (
    CollectionRequest,
    CollectionView,
    CreateCollectionRequest,
    DeleteCollectionResponse,
    FacesContract,
    ReembedRequest,
    ReembedStatusRequest,
    ReembedView,
    TextsContract,
)
from phalanx.contract.points import CountRequest, CountResponse, SearchRequest, SearchResponse
from phalanx.contract.vector import render_array
from phalanx.errors import InvalidRequest, Unavailable

if TYPE_CHECKING:
    from phalanx.app.models import Kind

LOOK_EVERY_S = 0.5
SHOWN_CHARS = 100


class KindName(enum.StrEnum):
    """What a collection is of."""

    VECTORS = "vectors"
    TEXTS = "texts"
    FACES = "faces"


class MetricName(enum.StrEnum):
    """How near two vectors are."""

    COSINE = "cosine"
    EUCLIDEAN = "euclidean"
    DOT = "dot"


MODELS: dict[KindName, Kind] = {KindName.TEXTS: "text", KindName.FACES: "faces"}
"""The models whose contract a collection of a kind is pinned to."""

Name = Annotated[str, typer.Argument(metavar="NAME", help="The collection.")]

app = typer.Typer()


@app.command("list", epilog="Example: phalanx collections list --organisation ann@example.org")
def list_collections(
    organisation: Organisation = None, as_json: AsJson = False, url: Url = None, key: Key = None
) -> None:
    """List collections by organisation and name."""
    found = asking(whom(url, key), lambda asks: all_collections(asks, organisation))
    if as_json:
        typer.echo(msgspec.json.encode(found).decode())
        return
    rows = [
        (one.name, one.kind, one.organisation, _contract(one) + (" → moving" if one.next_place else ""), one.place)
        for one in found
    ]
    none = f"There are no collections{f' of {organisation}' if organisation else ''}."
    head = ("name", "kind", "organisation", "contract", "place")
    print_table(head, rows, spare=("place", "kind", "organisation"), none=none)


@app.command(epilog="Example: phalanx collections show books")
def show(name: Name, organisation: Organisation = None, url: Url = None, key: Key = None) -> None:
    """Print a collection's contract, place and number of points as JSON."""

    async def work(asks: Asks) -> tuple[CollectionView, CountResponse]:
        owner = await asks.owner(name, organisation)
        view = await asks.ask("collections.get", request_of(CollectionRequest, name=name, organisation=owner))
        return view, await asks.ask("collections.count", request_of(CountRequest, name=name, organisation=owner))

    view, count = asking(whom(url, key), work, vectors=True)
    fields = {**msgspec.to_builtins(view), "points": count.count}
    typer.echo(msgspec.json.format(msgspec.json.encode(fields), indent=2).decode())


@app.command(
    epilog="Examples: phalanx collections create books texts --organisation ann@example.org · "
    "phalanx collections create colours vectors --dimensions 3 --organisation ann@example.org"
)
def create(
    name: Name,
    kind: Annotated[KindName, typer.Argument(help="What it is of.")],
    dimensions: Annotated[int | None, typer.Option(min=1, max=4096, help="Numbers of a vector.")] = None,
    metric: Annotated[MetricName | None, typer.Option(help="cosine unless given; goes with vectors.")] = None,
    model: Annotated[str | None, typer.Option(help="Model of texts or faces, if not the default one.")] = None,
    organisation: Annotated[str | None, typer.Option(help="Whose it is to be; needed without --url.")] = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """Create a collection; one that is there with the same contract stays."""
    if url is None and organisation is None:
        raise InvalidRequest("say whose the collection is to be: --organisation")
    fields = {"dimensions": dimensions, "metric": metric and metric.value, "model": model}
    given = {field: value for field, value in fields.items() if value is not None}
    request = request_of(CreateCollectionRequest, name=name, kind=kind.value, organisation=organisation, **given)

    async def work(asks: Asks) -> CollectionView:
        made: CollectionView = await asks.ask("collections.create", request)
        return made

    view = asking(whom(url, key), work, vectors=True, models=MODELS.get(kind))
    typer.echo(f"The collection {view.name} of {view.organisation} takes {_contract(view)}.")


@app.command(epilog="Example: phalanx collections delete books --yes")
def delete(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    organisation: Organisation = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """Delete a collection with all its points."""
    if not yes:
        typer.confirm(f"Delete the collection {name} with all its points?", abort=True)

    async def work(asks: Asks) -> DeleteCollectionResponse:
        owner = await asks.owner(name, organisation)
        done: DeleteCollectionResponse = await asks.ask(
            "collections.delete", request_of(CollectionRequest, name=name, organisation=owner)
        )
        return done

    typer.echo(f"The collection {asking(whom(url, key), work, vectors=True).deleted} is gone.")


@app.command(epilog="Example: phalanx collections search books 'a long voyage home' --limit 3")
def search(
    name: Name,
    text: Annotated[str | None, typer.Argument(help="A text to look for, in a collection of texts.")] = None,
    vector: Annotated[str | None, typer.Option(help="A vector to look for, as a JSON list.")] = None,
    point: Annotated[str | None, typer.Option("--id", help="A point whose neighbours to look for, by its id.")] = None,
    only: Annotated[str | None, typer.Option("--filter", help="A filter, as JSON.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many points at most.")] = 10,
    organisation: Organisation = None,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """Find the points nearest to a text, a vector or a point."""
    fields: dict[str, Any] = {"name": name, "limit": limit, "text": text, "id": point}
    for option, value in (("vector", vector), ("filter", only)):
        try:
            fields[option] = None if value is None else msgspec.json.decode(value)
        except msgspec.DecodeError as error:
            raise InvalidRequest(f"--{option} is no JSON: {error}") from None
    given = {field: value for field, value in fields.items() if value is not None}

    async def work(asks: Asks) -> SearchResponse:
        owner = await asks.owner(name, organisation)
        found: SearchResponse = await asks.ask(
            "collections.search", request_of(SearchRequest, organisation=owner, **given)
        )
        return found

    answer = asking(whom(url, key), work, vectors=True, models="text")
    if as_json:
        typer.echo(msgspec.json.encode(answer.matches, enc_hook=render_array).decode())
        return
    rows = []
    for match in answer.matches:
        payload = msgspec.json.encode(match.payload).decode()
        cut = f"{payload[:SHOWN_CHARS]}…" if len(payload) > SHOWN_CHARS else payload
        rows.append((f"{match.score:.4f}", str(match.id), cut))
    print_table(
        ("score", "id", "payload"), rows, numbers=("score",), none="No point is near, or the filter lets none through."
    )


@app.command(
    epilog="Examples: phalanx collections reembed books · phalanx collections reembed staff --images people/ · "
    "phalanx collections reembed books --url http://127.0.0.1:8000 --key @key.txt"
)
def reembed(
    name: Name,
    model: Annotated[str | None, typer.Option(help="Model to move to, if not the one it has, or the default.")] = None,
    version: Annotated[str | None, typer.Option(help="Version of it, where several serve at once.")] = None,
    images: Annotated[
        list[Path] | None, typer.Option(metavar="FOLDER", help="Of faces: where their images are; may be repeated.")
    ] = None,
    leave_out: Annotated[
        bool, typer.Option("--leave-out-missing", help="Of faces: be done without those whose images are not there.")
    ] = False,
    detector: Annotated[str | None, typer.Option(help="Of faces: the detector to move to, if to another one.")] = None,
    organisation: Organisation = None,
    quiet: Quiet = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """Move a collection of texts or faces to the model that serves now.

    Of faces the images are needed, the same files that were enrolled: they
    are known by their digests, whatever they are called now.

    The collection goes on answering meanwhile, and takes writes. What was
    stopped half way goes on where it was. Vectors in files of this machine
    belong to the worker that runs: name it by --url, or stop it first.
    """

    async def work(asks: Asks) -> ReembedView:
        owner = await asks.owner(name, organisation)
        if images:
            request = request_of(
                ReembedRequest, name=name, organisation=owner, model=model, version=version, detector=detector,
                images="coming",
            )  # fmt: skip
            return await bring_images(asks, request, images, leave_out=leave_out, quiet=quiet)
        status = request_of(ReembedStatusRequest, name=name, organisation=owner)
        request = request_of(ReembedRequest, name=name, organisation=owner, model=model, version=version)
        view: ReembedView = await asks.ask("collections.reembed", request)
        with Progress(
            TextColumn(escape(name)), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            console=Console(stderr=True), disable=quiet or not sys.stderr.isatty(),
        ) as progress:  # fmt: skip
            bar = progress.add_task(name, total=view.points)
            while view.state == "moving":
                await asyncio.sleep(LOOK_EVERY_S)
                view = await asks.ask("collections.reembed_status", status)
                progress.update(bar, completed=view.moved, total=view.points)
        return view

    if not images and (leave_out or detector is not None):
        raise InvalidRequest("--leave-out-missing and --detector go with --images")
    view = asking(whom(url, key), work, vectors=True, models="faces" if images else "text")
    if view.state != "settled":
        raise Unavailable(f"the collection {name} was not moved: {view.error or 'its worker was stopped'}")
    typer.echo(f"The collection {name} has {view.points} {'faces' if images else 'points'} of {_model(view.contract)}.")


def _contract(view: CollectionView) -> str:
    pinned = view.contract
    if isinstance(pinned, TextsContract | FacesContract):
        return f"{view.kind} of {_model(pinned)}"
    return f"vectors of {pinned.dimensions} numbers, {pinned.metric}"


def _model(contract: Any) -> str:
    return f"{getattr(contract, 'model', '')} {getattr(contract, 'version', '')}".strip()
