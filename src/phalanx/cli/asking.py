"""Whom commands about one organisation's things ask: the services in this process, or a worker that runs elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import msgspec

from phalanx.cli.bulk.journal import Facts
from phalanx.cli.requests import worded
from phalanx.cli.worker import call_here, with_app
from phalanx.contract.collections import CollectionView, ListCollectionsRequest, ListCollectionsResponse
from phalanx.errors import Conflict, InvalidRequest, NotFound, Overloaded, RateLimited, Unauthenticated, Unavailable
from phalanx.settings import Secret

if TYPE_CHECKING:
    from phalanx.app import App
    from phalanx.app.models import Kind

T = TypeVar("T")

PAGE = 1000
TRIES = 30
LONGEST_PAUSE_S = 60.0


class Whom(NamedTuple):
    """Whom to ask: a worker at `url`, with a `key`, or, without an address, this process."""

    url: str | None = None
    key: Secret | None = None


class Asks(Protocol):
    """Whatever answers rows of the table."""

    async def ask(self, name: str, request: msgspec.Struct) -> Any:
        """Call a row; raises as the row does."""
        ...

    async def owner(self, name: str, organisation: str | None) -> str | None:
        """Return the organisation to name in a request about a collection. Raises `NotFound`, `Conflict`."""
        ...

    def image(self, data: bytes) -> Any:
        """Return a picture's file in the form in which a request has it."""
        ...

    def facts(self) -> Facts:
        """Return what answers about faces depend on, for an interrupted run to go on with."""
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

    def image(self, data: bytes) -> Any:
        """Return the bytes: nothing travels."""
        return data

    def facts(self) -> Facts:
        """Return the models; raises `Unavailable` where one is missing, which says what to run."""
        detector, embedder = self._app.face_models.detector(), self._app.face_models.embedder()
        return {
            "the detector": f"{detector.name} {detector.version}",
            "the embedder": f"{embedder.name} {embedder.version}",
        }


def whom(url: str | None, key: str | None) -> Whom:
    """Return whom the options of a command mean; `key` is as typed. Raises `InvalidRequest`."""
    if url is None and key is not None:
        raise InvalidRequest("--key goes with --url; this process needs no key")
    return Whom(url, read_key(key))


def read_key(text: str | None) -> Secret | None:
    """Return a key as typed, or what stands in the FILE of `@FILE`. Raises `InvalidRequest`."""
    if text is None or not text.startswith("@"):
        key = text
    else:
        try:
            key = Path(text[1:]).read_text().strip()
        except (OSError, UnicodeDecodeError):
            raise InvalidRequest(f"the key cannot be read from {text[1:]!r}") from None
    if key is None:
        return None
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise InvalidRequest("a key is printable ASCII without spaces")
    return Secret(key)


def asking(of: Whom, work: Callable[[Asks], Awaitable[T]], *, models: Kind | None = None, vectors: bool = False) -> T:
    """Run `work` with whom to ask.

    `models` are those that this process loads, if it is to answer; `vectors` says that the work is about points.
    """
    if (url := of.url) is None:

        async def here(app: App) -> T:
            try:
                if vectors and "collections" not in app.settings.remote:
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
    # Here, since what is asked in this process speaks no HTTP, and help asks nobody.
    import uvloop

    from phalanx.cli.elsewhere import elsewhere

    async def there() -> T:
        with wanting_a_key(of.key):
            async with elsewhere(url, of.key) as asks:
                return await work(asks)

    return uvloop.run(there())


@contextmanager
def wanting_a_key(key: object | None) -> Iterator[None]:
    """Word the refusal of who sent no key by the option that sends one."""
    try:
        yield
    except Unauthenticated as error:
        if key is not None:
            raise
        raise Unauthenticated("the worker asks for an API key: --key @FILE") from error


async def patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask, and ask again as long as there is only no room, or the rate is used up."""
    for _ in range(TRIES):
        try:
            return await ask()
        except (Overloaded, RateLimited) as error:
            await asyncio.sleep(min(error.retry_after_s or 1.0, LONGEST_PAUSE_S))
    return await ask()


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
