"""What a worker and the process of its vectors say to each other: frames of MessagePack, each behind its length."""

from __future__ import annotations

import struct
from typing import Any, Literal

import msgspec

from phalanx.contract.collections import Filter

HEADER = struct.Struct("<I")
MAX_FRAME_BYTES = 1 << 30


class Kept(msgspec.Struct, array_like=True):
    """A point: the vector as the bytes of float32, None where it was not asked for; the score of a hit, else 0."""

    id: str
    vector: bytes | None
    payload: dict[str, Any]
    score: float = 0.0


class Create(msgspec.Struct, tag=True, array_like=True):
    """Make a place."""

    place: str
    dimensions: int
    distance: Literal["cosine", "euclidean", "dot"]
    indexed: list[str]


class Drop(msgspec.Struct, tag=True, array_like=True):
    """Do away with a place."""

    place: str


class Places(msgspec.Struct, tag=True, array_like=True):
    """Name all places."""


class Upsert(msgspec.Struct, tag=True, array_like=True):
    """Keep points."""

    place: str
    points: list[Kept]


class Delete(msgspec.Struct, tag=True, array_like=True):
    """Delete points by their ids."""

    place: str
    ids: list[str]


class DeleteWhere(msgspec.Struct, tag=True, array_like=True):
    """Delete the points that a filter lets through, and `erase` them from the files."""

    place: str
    only: Filter
    erase: bool


class Get(msgspec.Struct, tag=True, array_like=True):
    """Return points by their ids."""

    place: str
    ids: list[str]
    with_vectors: bool


class Search(msgspec.Struct, tag=True, array_like=True):
    """Return the nearest points."""

    place: str
    vector: bytes
    limit: int
    only: Filter | None
    with_vectors: bool


class Scroll(msgspec.Struct, tag=True, array_like=True):
    """Return points in the order of their ids."""

    place: str
    after: str | None
    limit: int
    only: Filter | None
    with_vectors: bool


class Count(msgspec.Struct, tag=True, array_like=True):
    """Count points."""

    place: str
    only: Filter | None


class Tally(msgspec.Struct, tag=True, array_like=True):
    """Count the points of each value of a key."""

    place: str
    key: str
    limit: int
    only: Filter | None


class Optimised(msgspec.Struct, tag=True, array_like=True):
    """Say how many points of a place an index holds, and whether one is being built."""

    place: str


Call = (
    Create | Drop | Places | Upsert | Delete | DeleteWhere | Get | Search | Scroll | Count | Tally | Optimised
)  # fmt: skip


class Request(msgspec.Struct, array_like=True):
    """A call, with the number that its answer is to have."""

    number: int
    call: Call


class Answer(msgspec.Struct, array_like=True):
    """What came of a call: `value`, or the code of `errors.py`, its detail, and the reason for the log.

    Number 0 is for all calls to come.
    """

    number: int
    value: Any = None
    code: str = ""
    detail: str = ""
    reason: str = ""


def framed(message: Request | Answer) -> bytes:
    """Return a message behind its length."""
    body = msgspec.msgpack.encode(message)
    return HEADER.pack(len(body)) + body
