"""Whom commands about one organisation's things ask: the services in this process, or a worker that runs elsewhere."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar
from urllib.parse import urlencode

import msgspec
import uvloop

from phalanx.app import App
from phalanx.app.models import Kind
from phalanx.cli.faces.asking import read_key, wanting_a_key
from phalanx.cli.requests import worded
from phalanx.cli.worker import call_here, with_app
from phalanx.contract.collections import CollectionView, ListCollectionsRequest, ListCollectionsResponse
from phalanx.errors import Conflict, InvalidRequest, NotFound, Unavailable
from phalanx.operations import table
from phalanx.upstreams.worker import WorkerClient, fill_path

T = TypeVar("T")

PAGE = 1000


class Asks(Protocol):
    """Whatever answers rows of the table."""

    async def ask(self, name: str, request: msgspec.Struct) -> Any:
        """Call a row; raises as the row does."""
        ...

    async def owner(self, name: str, organisation: str | None) -> str | None:
        """Return the organisation to name in a request about a collection. Raises `NotFound`, `Conflict`."""
        ...


class Here:
    """The services of this process, asked as the operator of this machine, who sees every organisation's collections."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def ask(self, name: str, request: msgspec.Struct) -> Any:
        """Call a row."""
        return await call_here(self._app, self._app.operations[name], request)

    async def owner(self, name: str, organisation: str | None) -> str | None:
        """Return whose the only collection of that name is."""
        if organisation is not None:
            return organisation
        owners = [one.organisation for one in await all_collections(self, None) if one.name == name]
        if not owners:
            raise NotFound(f"there is no collection {name!r}; `phalanx collections list` shows all")
        if len(owners) > 1:
            raise Conflict(f"several have a collection {name!r}: say --organisation, one of {', '.join(owners)}")
        return owners[0]


class Elsewhere:
    """A worker that runs, asked over HTTP."""

    def __init__(self, client: WorkerClient) -> None:
        self._client = client
        self._rows = table()

    async def ask(self, name: str, request: msgspec.Struct) -> Any:
        """Call a row by its route."""
        row = self._rows[name]
        fields = {field: getattr(request, field) for field in request.__struct_fields__}
        path, rest = fill_path(row.path, {field: value for field, value in fields.items() if value is not None})
        if row.method in ("GET", "DELETE"):
            answer = await self._client.call(row.method, f"{path}?{urlencode(rest)}" if rest else path, None)
        else:
            answer = await self._client.call(row.method, path, msgspec.json.encode(rest))
        return msgspec.json.decode(answer, type=row.response)

    async def owner(self, name: str, organisation: str | None) -> str | None:
        """Return what was given: without it the key says whose collections are meant."""
        return organisation


def asking(
    url: str | None,
    key: str | None,
    work: Callable[[Asks], Awaitable[T]],
    *,
    models: Kind | None = None,
    vectors: bool = True,
) -> T:
    """Run `work` with whom to ask.

    `models` are those that this process loads, if it is to answer; `vectors` says that the work is about points too.
    """
    if url is None:
        if key is not None:
            raise InvalidRequest("--key goes with --url; this process needs no key")

        async def here(app: App) -> T:
            try:
                if vectors:
                    # Who has the vectors' files is waited for as long as a call may take; this call may take longer.
                    await app.stores.vectors.places()
                if models is not None:
                    await app.load_models(only=models)
                return await work(Here(app))
            except Unavailable as error:
                raise Unavailable(
                    f"{error.detail}\nA worker that runs is asked by --url http://… --key @FILE"
                ) from None

        return with_app(here)

    async def elsewhere() -> T:
        with wanting_a_key(key):
            async with WorkerClient(url, read_key(key)) as client:
                return await work(Elsewhere(client))

    return uvloop.run(elsewhere())


async def all_collections(asks: Asks, organisation: str | None) -> list[CollectionView]:
    """Return the collections of an organisation, of the key's, or, to the operator, of all."""
    found: list[CollectionView] = []
    after = ""
    while True:
        request = request_of(ListCollectionsRequest, after=after, limit=PAGE, organisation=organisation)
        page: ListCollectionsResponse = await asks.ask("collections.list", request)
        found += page.collections
        if page.next is None:
            return found
        after = page.next


def request_of(request: type[T], /, **fields: Any) -> T:
    """Return a request. Raises `InvalidRequest` for what does not fit it."""
    try:
        return msgspec.convert(fields, request)
    except msgspec.ValidationError as error:
        raise InvalidRequest(worded(error, fields)) from None
