"""Five rows from outside: unary, server stream, client stream, an image body and a binary-vectors body."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Annotated, Any

import numpy as np
from msgspec import Meta, Struct

from phalanx.contract.vector import Matrix, Vector
from phalanx.errors import InvalidRequest
from phalanx.operations import Body, Kind, Operation, Services
from phalanx.services.ticket import Ticket


class EchoRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A word, and how often to say it."""

    word: str
    times: Annotated[int, Meta(ge=1, le=100)] = 1


class EchoResponse(Struct, frozen=True):
    """The word, that often."""

    words: list[str]


class CountRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Count to `to`, waiting `pause_ms` milliseconds before each number; fail before `fail_at`, if given."""

    to: Annotated[int, Meta(ge=0, le=1_000_000)]
    pause_ms: Annotated[int, Meta(ge=0, le=2_000)] = 0
    fail_at: int | None = None


class CountResponse(Struct, frozen=True):
    """One number."""

    number: int


class AddRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A number to add."""

    number: int


class AddResponse(Struct, frozen=True):
    """The sum so far."""

    total: int


class DigestRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """An image, and a note to send back."""

    image: bytes
    note: str = ""


class DigestResponse(Struct, frozen=True):
    """The image's SHA-256 and size."""

    sha256: str
    size_bytes: int
    note: str


class DotRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Two float32 matrices, `[n, d]` and `[m, d]`."""

    left: Matrix
    right: Matrix


class DotResponse(Struct, frozen=True):
    """Their products, `[n, m]` float32."""

    matrix: Matrix


async def echo(services: Services, ticket: Ticket, request: EchoRequest) -> EchoResponse:
    """Say a word."""
    ticket.meter.units += request.times
    return EchoResponse([request.word] * request.times)


async def count(services: Services, ticket: Ticket, request: CountRequest) -> AsyncIterator[CountResponse]:
    """Count. Raises `InvalidRequest` at `fail_at`."""
    for number in range(1, request.to + 1):
        if request.pause_ms:
            await asyncio.sleep(request.pause_ms / 1e3)
        if number == request.fail_at:
            raise InvalidRequest(f"asked to fail at {number}")
        ticket.meter.units += 1
        yield CountResponse(number)


async def add(services: Services, ticket: Ticket, requests: AsyncIterator[AddRequest]) -> AsyncIterator[AddResponse]:
    """Add numbers as they come."""
    total = 0
    async for request in requests:
        total += request.number
        ticket.meter.units += 1
        yield AddResponse(total)


async def digest(services: Services, ticket: Ticket, request: DigestRequest) -> DigestResponse:
    """Digest an image's bytes."""
    ticket.meter.units += 1
    return DigestResponse(hashlib.sha256(request.image).hexdigest(), len(request.image), request.note)


async def dot(services: Services, ticket: Ticket, request: DotRequest) -> DotResponse:
    """Multiply two matrices. Raises `InvalidRequest` when their rows differ in length."""
    left, right = _matrix(request.left, "left"), _matrix(request.right, "right")
    if left.shape[1] != right.shape[1]:
        raise InvalidRequest(f"the rows have {left.shape[1]} and {right.shape[1]} numbers; they must have as many")
    ticket.meter.units += len(left) * len(right)
    return DotResponse(left @ right.T)


def _matrix(rows: Any, name: str) -> Vector:
    """Return float32 `[n, d]`; what came as JSON has not been looked at yet. Raises `InvalidRequest`."""
    try:
        matrix = np.asarray(rows, dtype=np.float32)
    except (ValueError, TypeError, OverflowError):
        matrix = np.empty(0, dtype=np.float32)
    if matrix.ndim != 2 or isinstance(rows, str):
        raise InvalidRequest(f"{name} must be rows of numbers, all as long", param=name)
    return matrix


OPERATIONS = (
    Operation(
        name="example.echo", request=EchoRequest, response=EchoResponse, scope="text", http="POST /v1/example/echo",
        grpc="Example/Echo", job=True, run=echo, summary="Say a word.", examples=({"word": "hello", "times": 2},),
    ),
    Operation(
        name="example.count", request=CountRequest, response=CountResponse, scope="text", kind=Kind.SERVER_STREAM,
        http="POST /v1/example/count", grpc="Example/Count", unit="message", run=count, summary="Count.",
        examples=({"to": 3},),
    ),
    Operation(
        name="example.add", request=AddRequest, response=AddResponse, scope="text", kind=Kind.CLIENT_STREAM,
        http="POST /v1/example/add", grpc="Example/Add", unit="message", run=add, summary="Add numbers as they come.",
        examples=({"number": 1}, {"number": 2}),
    ),
    Operation(
        name="example.digest", request=DigestRequest, response=DigestResponse, scope="images", unit="image",
        bodies=(Body.IMAGE, Body.JSON), http="POST /v1/example/digest", grpc="Example/Digest", run=digest,
        summary="Digest an image's bytes.", examples=({"image": "aGVsbG8="},),
    ),
    Operation(
        name="example.dot", request=DotRequest, response=DotResponse, scope="vectors", unit="vector",
        bodies=(Body.VECTORS, Body.JSON), http="POST /v1/example/dot", grpc="Example/Dot", run=dot,
        summary="Multiply two matrices.", examples=({"left": [[1.0, 2.0]], "right": [[3.0, 4.0]]},),
    ),
)  # fmt: skip
