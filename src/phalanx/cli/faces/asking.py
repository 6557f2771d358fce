"""Whom the commands ask: the services in this process, or a worker that runs elsewhere."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec
import uvloop

from phalanx.app import App
from phalanx.cli.bulk.journal import Facts
from phalanx.cli.worker import call_here, with_app
from phalanx.errors import (
    DeadlineExceeded,
    Internal,
    InvalidRequest,
    LowQuality,
    NoFace,
    Overloaded,
    PhalanxError,
    RateLimited,
    SeveralFaces,
    TooLarge,
    Unauthenticated,
    UnreadableInput,
    UnsupportedMediaType,
)
from phalanx.operations import table
from phalanx.settings import Secret
from phalanx.upstreams.worker import WorkerClient, fill_path

T = TypeVar("T")

TRIES = 30
LONGEST_PAUSE_S = 60.0

OF_THE_PICTURE: tuple[type[PhalanxError], ...] = (
    DeadlineExceeded, Internal, InvalidRequest, LowQuality, NoFace, SeveralFaces, TooLarge, UnreadableInput,
    UnsupportedMediaType,
)  # fmt: skip
"""Failures that are one picture's own, so that the others are still looked at."""


class Asks(Protocol):
    """Whatever answers rows of the table."""

    def image(self, data: bytes) -> Any:
        """Return a picture's file in the form in which a request has it."""
        ...

    async def ask(self, name: str, request: msgspec.Struct) -> Any:
        """Call a row; raises as the row does."""
        ...

    def facts(self) -> Facts:
        """Return what its answers depend on, for an interrupted run to go on with."""
        ...


class Here:
    """The services of this process, asked as the operator of this machine."""

    def __init__(self, app: App) -> None:
        self._app = app

    def image(self, data: bytes) -> Any:
        """Return the bytes: nothing travels."""
        return data

    async def ask(self, name: str, request: msgspec.Struct) -> Any:
        """Call a row."""
        return await call_here(self._app, self._app.operations[name], request)

    def facts(self) -> Facts:
        """Return the models; raises `Unavailable` where one is missing, which says what to run."""
        detector, embedder = self._app.face_models.detector(), self._app.face_models.embedder()
        return {
            "the detector": f"{detector.name} {detector.version}",
            "the embedder": f"{embedder.name} {embedder.version}",
        }


class Elsewhere:
    """A worker that runs, asked over HTTP."""

    def __init__(self, client: WorkerClient, url: str) -> None:
        self._client = client
        self._url = url
        self._rows = table()

    def image(self, data: bytes) -> Any:
        """Return base64."""
        return base64.b64encode(data).decode()

    async def ask(self, name: str, request: msgspec.Struct) -> Any:
        """Call a row by its route."""
        row = self._rows[name]
        fields = {field: getattr(request, field) for field in request.__struct_fields__}
        path, rest = fill_path(row.path, {field: value for field, value in fields.items() if value is not None})
        body = msgspec.json.encode(rest) if row.method in ("POST", "PUT", "PATCH") else None
        answer = await self._client.call(row.method, path, body)
        try:
            return msgspec.json.decode(answer, type=row.response)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"the worker is of another version; its answer cannot be read: {error}") from None

    def facts(self) -> Facts:
        """Return the worker's address."""
        return {"--url": self._url}


class Whom(NamedTuple):
    """Whom to ask: a worker at `url`, with a `key`, or, without an address, this process."""

    url: str | None = None
    key: Secret | None = None


def asking(whom: Whom, work: Callable[[Asks], Awaitable[T]]) -> T:
    """Run `work` with whom to ask."""
    if whom.url is None:

        async def here(app: App) -> T:
            await app.load_models(only="faces")
            return await work(Here(app))

        return with_app(here)
    url = whom.url

    async def elsewhere() -> T:
        with wanting_a_key(whom.key):
            async with _client(url, whom.key) as asks:
                return await work(asks)

    return uvloop.run(elsewhere())


@asynccontextmanager
async def _client(url: str, key: Secret | None) -> AsyncIterator[Elsewhere]:
    async with WorkerClient(url, key) as client:
        yield Elsewhere(client, url)


@contextmanager
def wanting_a_key(key: object | None) -> Iterator[None]:
    """Word the refusal of who sent no key by the option that sends one."""
    try:
        yield
    except Unauthenticated as error:
        if key is not None:
            raise
        raise Unauthenticated("the worker asks for an API key: --key @FILE") from error


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


async def patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask, and ask again as long as there is only no room, or the rate is used up."""
    for _ in range(TRIES):
        try:
            return await ask()
        except (Overloaded, RateLimited) as error:
            await asyncio.sleep(min(error.retry_after_s or 1.0, LONGEST_PAUSE_S))
    return await ask()
