"""The table: one row per API call, and `call()`, the only way in.

REST routes, OpenAPI, the command line, the docs and the edges' tests are read off `OPERATIONS`. A new capability is
contract structs, an engine, a service, and a row here; others add rows through the entry-point group
`phalanx.operations`.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, Literal, NamedTuple

import msgspec

from phalanx.contract import keys, models, status, text
from phalanx.contract.keys import Scope
from phalanx.contract.vector import pack_array, unpack_array
from phalanx.errors import Cancelled, Internal, PhalanxError
from phalanx.ports import IdempotencyStore
from phalanx.services.gate import Gate
from phalanx.services.health import HealthService
from phalanx.services.keys import KeyService
from phalanx.services.models import ModelService
from phalanx.services.text import TextService
from phalanx.services.ticket import Call, Ticket

PLUGIN_GROUP = "phalanx.operations"
OK = "ok"


class Kind(enum.Enum):
    """How many messages go each way. A client stream is answered message by message, so that it can be bulk work."""

    UNARY = "unary"
    SERVER_STREAM = "server stream"
    CLIENT_STREAM = "client stream"


class Body(enum.Enum):
    """What a row reads besides path and query: nothing, JSON, an image (raw or multipart), or binary vectors."""

    NONE = "none"
    JSON = "json"
    IMAGE = "image"
    VECTORS = "vectors"


@dataclass(frozen=True, slots=True)
class Services:
    """What rows run on. `extra` holds what plug-ins bring, by their own names."""

    text: TextService
    models: ModelService
    keys: KeyService
    health: HealthService
    extra: dict[str, Any] = field(default_factory=dict)


Run = Callable[[Services, Ticket, Any], Any]
Unit = Literal["request", "token", "image", "vector", "message"]
CacheRule = Literal["none", "content", "revalidate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One row.

    `scope` None admits any caller with a credential. `cache`: content means that the service keeps results by what
    was sent; revalidate that a client may keep the answer and ask with its ETag; none that nobody may. `computed` rows
    count against MAX_CONCURRENT_REQUESTS and REQUEST_TIMEOUT. `examples` are requests that work; the docs show them
    and the edges' tests send them. `run` returns an awaitable (unary) or an async iterator (streams).
    """

    name: str
    request: type[msgspec.Struct]
    response: type[msgspec.Struct]
    scope: Scope | None
    http: str
    run: Run
    summary: str
    unit: Unit = "request"
    grpc: str | None = None
    job: bool = False
    kind: Kind = Kind.UNARY
    bodies: tuple[Body, ...] = (Body.JSON,)
    cache: CacheRule = "none"
    computed: bool = False
    examples: tuple[dict[str, Any], ...] = ()

    @property
    def method(self) -> str:
        """The HTTP method of its route."""
        return self.http.split(" ", 1)[0]

    @property
    def path(self) -> str:
        """The path of its route, with `{parameters}`."""
        return self.http.split(" ", 1)[1]

    @property
    def noun(self) -> str:
        """What it is about: the name's first part."""
        return self.name.split(".", 1)[0]


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        name="text.embed", request=text.EmbedRequest, response=text.EmbedResponse, scope="text", unit="token",
        http="POST /v1/text/embed", grpc="Text/Embed", job=True, computed=True, cache="content",
        run=lambda s, t, r: s.text.embed(t, r), summary="Embed texts.",
        examples=({"texts": ["Hello world"]}, {"texts": ["one", "two"], "dimensions": 64, "output": "base64"}),
    ),
    Operation(
        name="text.embed_stream", request=text.EmbedRequest, response=text.EmbedResponse, scope="text", unit="token",
        http="POST /v1/text/embed-stream", grpc="Text/EmbedStream", kind=Kind.CLIENT_STREAM, cache="content",
        run=lambda s, t, r: s.text.embed_stream(t, r), summary="Embed a stream of requests, one JSON object a line.",
        examples=({"texts": ["Hello world"]},),
    ),
    Operation(
        name="text.embed_tokens", request=text.EmbedTokensRequest, response=text.EmbedTokensResponse, scope="text",
        unit="token", http="POST /v1/text/embed-tokens", grpc="Text/EmbedTokens", job=True, computed=True,
        run=lambda s, t, r: s.text.embed_tokens(t, r), summary="Return the vector of every token, before pooling.",
        examples=({"texts": ["Hello world"]},),
    ),
    Operation(
        name="text.tokenize", request=text.TokenizeRequest, response=text.TokenizeResponse, scope="text", unit="token",
        http="POST /v1/text/tokenize", grpc="Text/Tokenize", computed=True,
        run=lambda s, t, r: s.text.tokenize(t, r), summary="Split texts into tokens.",
        examples=({"texts": ["Hello world"]},),
    ),
    Operation(
        name="text.similarity", request=text.SimilarityRequest, response=text.SimilarityResponse, scope="text",
        unit="token", http="POST /v1/text/similarity", grpc="Text/Similarity", job=True, computed=True, cache="content",
        run=lambda s, t, r: s.text.similarity(t, r), summary="Compare a text with others by cosine.",
        examples=({"source": "a cat", "texts": ["a kitten", "a lorry"]},),
    ),
    Operation(
        name="models.list", request=models.ListModelsRequest, response=models.ListModelsResponse, scope=None,
        http="GET /v1/models", grpc="Models/List", bodies=(Body.NONE,), cache="revalidate",
        run=lambda s, t, r: s.models.list(t, r), summary="List the models of this worker.", examples=({},),
    ),
    Operation(
        name="models.get", request=models.GetModelRequest, response=models.Model, scope=None,
        http="GET /v1/models/{id:path}", grpc="Models/Get", bodies=(Body.NONE,), cache="revalidate",
        run=lambda s, t, r: s.models.get(t, r), summary="Describe one model.", examples=({"id": "all-MiniLM-L6-v2"},),
    ),
    Operation(
        name="keys.create", request=keys.CreateKeyRequest, response=keys.CreateKeyResponse, scope="keys",
        http="POST /v1/keys", grpc="Keys/Create", run=lambda s, t, r: s.keys.create(t, r),
        summary="Create an API key; its text is shown this once.",
        examples=({"email": "ann@example.org", "name": "laptop", "tier": "scale", "scopes": ["text"]},),
    ),
    Operation(
        name="keys.list", request=keys.ListKeysRequest, response=keys.ListKeysResponse, scope="keys",
        http="GET /v1/keys", grpc="Keys/List", bodies=(Body.NONE,), run=lambda s, t, r: s.keys.list(t, r),
        summary="List keys.", examples=({},),
    ),
    Operation(
        name="keys.revoke", request=keys.RevokeKeyRequest, response=keys.KeyView, scope="keys",
        http="DELETE /v1/keys/{id}", grpc="Keys/Revoke", bodies=(Body.NONE,), run=lambda s, t, r: s.keys.revoke(t, r),
        summary="Revoke a key.",
    ),
    Operation(
        name="system.status", request=status.StatusRequest, response=status.StatusResponse, scope="admin",
        http="GET /api/status", grpc="System/Status", bodies=(Body.NONE,), run=lambda s, t, r: s.health.status(t, r),
        summary="Show counts, latencies, queues and memory of this worker.", examples=({},),
    ),
)  # fmt: skip


def table(*, plugins: bool = True) -> dict[str, Operation]:
    """Return all rows by name, those of installed plug-ins too.

    A plug-in's entry point in the group `phalanx.operations` is a row or an iterable of rows. Raises `ValueError` when
    two rows share a name or a route.
    """
    rows = list(OPERATIONS)
    if plugins:
        for point in sorted(entry_points(group=PLUGIN_GROUP), key=lambda point: point.name):
            found = point.load()
            rows += [found] if isinstance(found, Operation) else list(found)
    return index(rows)


def index(rows: Iterable[Operation]) -> dict[str, Operation]:
    """Return rows by name. Raises `ValueError` when two share a name or a route."""
    by_name: dict[str, Operation] = {}
    routes: dict[str, str] = {}
    for row in rows:
        if row.name in by_name:
            raise ValueError(f"two operations are called {row.name!r}")
        if row.http in routes:
            raise ValueError(f"the operations {routes[row.http]!r} and {row.name!r} share the route {row.http!r}")
        by_name[row.name], routes[row.http] = row, row.name
    return by_name


class Entrance(NamedTuple):
    """What `call` needs of the running worker."""

    gate: Gate
    services: Services
    idempotency: IdempotencyStore


Read = Callable[[], Awaitable[Any]]
"""Reads and decodes the caller's request, bounded; for a client stream it returns an async iterator of requests."""


async def call(entrance: Entrance, operation: Operation, inbound: Call, read: Read) -> Any:
    """Let one call in, run it, bill it. Returns the response, or a `Stream` of responses.

    The body is read only once the caller is known and within its rate. The ticket of a stream stays open until the
    stream ends or is closed; whoever gets one must do one or the other.
    """
    if operation.computed:
        entrance.gate.refuse_when_full()
    caller = await entrance.gate.admit(inbound, operation.scope)
    inbound.request = await read()
    if operation.kind is not Kind.UNARY:
        await _reserve(entrance, operation, inbound)
        return Stream(entrance, operation, inbound)
    if inbound.idempotency_key is None:
        await _reserve(entrance, operation, inbound)
        return await _unary(entrance, operation, inbound)
    key = f"{caller.subject}:{operation.name}:{inbound.idempotency_key}"
    stored = await entrance.idempotency.begin(key, inbound.fingerprint)
    if stored is not None:
        inbound.replayed = True
        return msgspec.msgpack.decode(stored, type=operation.response, ext_hook=unpack_array)
    answer = None
    try:
        await _reserve(entrance, operation, inbound)
        response = await _unary(entrance, operation, inbound)
        answer = msgspec.msgpack.encode(response, enc_hook=pack_array)
    finally:
        await entrance.idempotency.finish(key, answer)
    return response


async def _reserve(entrance: Entrance, operation: Operation, inbound: Call) -> None:
    assert inbound.caller is not None
    inbound.ticket = await entrance.gate.reserve(
        inbound.caller,
        operation=operation.name,
        unit=operation.unit,
        computed=operation.computed,
        streaming=operation.kind is not Kind.UNARY,
    )


async def _unary(entrance: Entrance, operation: Operation, inbound: Call) -> Any:
    assert inbound.ticket is not None
    status = Internal.row.code
    try:
        response = await operation.run(entrance.services, inbound.ticket, inbound.request)
        status = OK
        return response
    except BaseException as error:
        status = _status_of(error)
        raise
    finally:
        await entrance.gate.settle(inbound.ticket, status=status, computed=operation.computed)


class Stream:
    """The answers of a stream. An async generator would not do: closed before its first step, it runs no `finally`."""

    def __init__(self, entrance: Entrance, operation: Operation, inbound: Call) -> None:
        assert inbound.ticket is not None
        self._entrance = entrance
        self._operation = operation
        self._ticket: Ticket | None = inbound.ticket
        self._answers = operation.run(entrance.services, inbound.ticket, inbound.request)

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Any:
        try:
            return await anext(self._answers)
        except StopAsyncIteration:
            await self._settle(OK)
            raise
        except BaseException as error:
            await self._settle(_status_of(error))
            raise

    async def aclose(self) -> None:
        """End the stream; one that has not come to its end counts as cancelled."""
        try:
            await self._answers.aclose()
        finally:
            await self._settle(Cancelled.row.code)

    async def _settle(self, status: str) -> None:
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            await self._entrance.gate.settle(ticket, status=status, computed=self._operation.computed)


def _status_of(error: BaseException) -> str:
    if isinstance(error, PhalanxError):
        return error.code
    return Cancelled.row.code if isinstance(error, asyncio.CancelledError) else Internal.row.code
