"""What a worker and its supervisor tell each other: MessagePack behind a length of four bytes, big-endian."""

from __future__ import annotations

import asyncio
from typing import TypeVar

import msgspec
from msgspec import Struct

MAX_BYTES = 32 * 2**20
"""Of one message. A worker's metrics take some 50 KiB."""

T = TypeVar("T")


class Sample(Struct, frozen=True, array_like=True):
    """One value of a metric."""

    name: str
    labels: dict[str, str]
    value: float


class Family(Struct, frozen=True, array_like=True):
    """One metric with all its values, as `prometheus_client` collects it; `kind` is its type there."""

    name: str
    kind: str
    meaning: str
    samples: list[Sample]


class Beat(Struct, frozen=True, tag="beat"):
    """From a worker's event loop, which turns: whether `/readyz` is true and whether it accepts connections."""

    ready: bool
    accepting: bool


class Report(Struct, frozen=True, tag="report"):
    """From a worker: all its metrics now."""

    families: list[Family]


class Failed(Struct, frozen=True, tag="failed"):
    """From a worker that ends itself: why."""

    reason: str


class Accept(Struct, frozen=True, tag="accept"):
    """To a worker: accept connections before you are ready, since nobody else is there to answer probes."""


class Drain(Struct, frozen=True, tag="drain"):
    """To a worker: finish what you have and end. `at_once` leaves out the delay, since others go on accepting."""

    at_once: bool = False


class Hurry(Struct, frozen=True, tag="hurry"):
    """To a worker: wait for nothing more."""


FromWorker = Beat | Report | Failed
ToWorker = Accept | Drain | Hurry


def frame(message: FromWorker | ToWorker) -> bytes:
    """Return a message as bytes to be sent."""
    body = msgspec.msgpack.encode(message)
    return len(body).to_bytes(4, "big") + body


async def receive(reader: asyncio.StreamReader, decoder: msgspec.msgpack.Decoder[T]) -> T | None:
    """Return the next message, None when the other end is closed. Raises `ValueError` for what is no message."""
    try:
        size = int.from_bytes(await reader.readexactly(4), "big")
        if size > MAX_BYTES:
            raise ValueError(f"a message of {size} bytes")
        return decoder.decode(await reader.readexactly(size))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from error
