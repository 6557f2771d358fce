"""Vectors in Qdrant Edge, in a process beside the worker's."""

from __future__ import annotations

import asyncio
import itertools
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from phalanx.contract.collections import Filter
from phalanx.contract.vector import Vector
from phalanx.errors import ERRORS, InvalidRequest, Overloaded, Unavailable
from phalanx.ports import Distance, Hit, Point
from phalanx.stores.points import check_contents, check_filter, check_id, check_place
from phalanx.stores.qdrant.frames import (
    HEADER,
    MAX_FRAME_BYTES,
    Answer,
    Call,
    Count,
    Create,
    Delete,
    DeleteWhere,
    Drop,
    Get,
    Kept,
    Optimised,
    Places,
    Request,
    Scroll,
    Search,
    Tally,
    Upsert,
    framed,
)
from phalanx.telemetry import Log

T = TypeVar("T")

MAX_WAITING = 256
"""How many calls may wait for the process; past it they are refused."""
CLOSE_TIMEOUT_S = 10.0
"""How long the process is given to bring everything to disk; after that it is killed, and its log has what was acknowledged."""
PING_TIMEOUT_S = 5.0
GONE = "the process of the vectors ended; it is started again with the next call"
MODULE = "phalanx.stores.qdrant.edge_process"


class EdgeVectorStore:
    """A `VectorStore` in `folder`. The process starts with the first call, and again after it died.

    What was acknowledged is in a log on disk before the answer comes: it outlives the death of either process. A loss of power
    may take what was written in the last ten seconds.
    """

    def __init__(self, folder: Path, *, log: Log) -> None:
        self._folder, self._log = folder, log
        self._process: Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._starting, self._writing = asyncio.Lock(), asyncio.Lock()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._refusal = Answer(0, code=Unavailable.row.code, detail=GONE)
        self._is_closed = False

    @property
    def pid(self) -> int | None:
        """The process's number, while there is one."""
        return None if self._process is None else self._process.pid

    async def create(self, place: str, *, dimensions: int, distance: Distance, indexed: Sequence[str] = ()) -> None:
        """Make a place, if it is not there. Raises `Conflict`, `InvalidRequest`, `Unavailable`."""
        check_place(place, dimensions)
        await self._ask(Create(place, dimensions, distance, list(indexed)), None)

    async def drop(self, place: str) -> bool:
        """Do away with a place. Returns whether it was there. Raises `Unavailable`."""
        return await self._ask(Drop(place), bool)

    async def places(self) -> list[str]:
        """Return the names of all places, in order. Raises `Unavailable`."""
        return await self._ask(Places(), list[str])

    async def upsert(self, place: str, points: Sequence[Point]) -> None:
        """Keep points, each instead of the one of its id. Raises `NotFound`, `InvalidRequest`, `Unavailable`."""
        check_contents(points)
        kept = [
            Kept(point.id, None if point.vector is None else _bytes(point.vector), point.payload) for point in points
        ]
        await self._ask(Upsert(place, kept), None)

    async def delete(self, place: str, ids: Sequence[str]) -> None:
        """Delete points by their ids. Raises `NotFound`, `InvalidRequest`, `Unavailable`."""
        await self._ask(Delete(place, [check_id(name) for name in ids]), None)

    async def delete_where(self, place: str, only: Filter, *, erase: bool = False) -> None:
        """Delete all points that a filter lets through. Raises `NotFound`, `InvalidRequest`, `Unavailable`."""
        check_filter(only)
        await self._ask(DeleteWhere(place, only, erase), None)

    async def get(self, place: str, ids: Sequence[str], *, with_vectors: bool = False) -> list[Point]:
        """Return the points that are there, in the order of `ids`. Raises `NotFound`, `InvalidRequest`, `Unavailable`."""
        kept = await self._ask(Get(place, [check_id(name) for name in ids], with_vectors), list[Kept])
        return [_point(one) for one in kept]

    async def search(
        self, place: str, vector: Vector, *, limit: int, only: Filter | None = None, with_vectors: bool = False
    ) -> list[Hit]:
        """Return the nearest points, nearest first. Raises `NotFound`, `InvalidRequest`, `Unavailable`."""
        check_filter(only)
        kept = await self._ask(Search(place, _bytes(vector), limit, only, with_vectors), list[Kept])
        return [Hit(one.id, one.score, one.payload, _vector(one.vector)) for one in kept]

    async def scroll(
        self,
        place: str,
        *,
        after: str | None = None,
        limit: int,
        only: Filter | None = None,
        with_vectors: bool = False,
    ) -> list[Point]:
        """Return points in the order of their ids. Raises `NotFound`, `InvalidRequest`, `Unavailable`."""
        check_filter(only)
        start = None if after is None else check_id(after)
        return [_point(one) for one in await self._ask(Scroll(place, start, limit, only, with_vectors), list[Kept])]

    async def count(self, place: str, only: Filter | None = None) -> int:
        """Count points, exactly. Raises `NotFound`, `InvalidRequest`, `Unavailable`."""
        check_filter(only)
        return await self._ask(Count(place, only), int)

    async def tally(self, place: str, key: str, *, limit: int, only: Filter | None = None) -> list[tuple[str, int]]:
        """Count the points of each value of an indexed key. Raises `NotFound`, `InvalidRequest`, `Unavailable`."""
        check_filter(only)
        return await self._ask(Tally(place, key, limit, only), list[tuple[str, int]])

    async def optimised(self, place: str) -> tuple[int, bool]:
        """Return how many points of a place its graph holds, and whether it is being built anew."""
        return await self._ask(Optimised(place), tuple[int, bool])

    async def ping(self) -> None:
        """Return when the process answers. Raises `Unavailable`."""
        try:
            async with asyncio.timeout(PING_TIMEOUT_S):
                await self.places()
        except TimeoutError:
            raise Unavailable(f"the process of the vectors did not answer within {PING_TIMEOUT_S:g} s") from None

    async def close(self) -> None:
        """Have the process bring everything to disk and end."""
        self._is_closed = True
        async with self._starting:
            process, reader = self._process, self._reader
            if process is not None and process.stdin is not None:
                process.stdin.close()
                try:
                    async with asyncio.timeout(CLOSE_TIMEOUT_S):
                        await process.wait()
                except TimeoutError:
                    self._log.warning("the process of the vectors was killed, since it did not end in time")
                    with suppress(ProcessLookupError):
                        process.kill()
            if reader is not None:
                await reader

    async def _ask(self, call: Call, kind: type[T] | None) -> T:
        if len(self._waiting) >= MAX_WAITING:
            raise Overloaded("too many calls wait for the vectors")
        process = await self._started()
        request = Request(next(self._numbers), call)
        try:
            frame = framed(request)
        except (OverflowError, UnicodeEncodeError, RecursionError) as error:
            raise InvalidRequest("the call cannot be encoded") from error
        if len(frame) > MAX_FRAME_BYTES:
            raise InvalidRequest("the call is larger than the vectors' process takes")
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[request.number] = answered
        try:
            assert process.stdin is not None
            # Whole frames in a row; a call that is cancelled while it is written has been handed over already.
            process.stdin.write(frame)
            async with self._writing:
                await process.stdin.drain()
        except (OSError, RuntimeError):
            # The reader sees the end too, and says why.
            pass
        try:
            answer = await answered
        finally:
            self._waiting.pop(request.number, None)
        if answer.code:
            self._fail(answer)
        return msgspec.convert(answer.value, kind) if kind is not None else answer.value

    def _fail(self, answer: Answer) -> None:
        if answer.reason:
            self._log.error("vectors failed", reason=answer.reason)
        raise ERRORS[answer.code](answer.detail)

    async def _started(self) -> Process:
        if self._is_closed:
            raise Unavailable("the store of the vectors is closed")
        async with self._starting:
            if self._process is not None:
                return self._process
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", MODULE, str(self._folder), stdin=PIPE, stdout=PIPE, start_new_session=True
                )
            except OSError as error:
                raise Unavailable(f"the process of the vectors cannot be started: {error.strerror}") from None
            self._refusal = Answer(0, code=Unavailable.row.code, detail=GONE)
            self._process, self._reader = process, asyncio.create_task(self._read(process))
            return process

    async def _read(self, process: Process) -> None:
        """Hand answers to who waits for them, until the process ends."""
        decoder = msgspec.msgpack.Decoder(Answer)
        assert process.stdout is not None
        try:
            while True:
                (size,) = HEADER.unpack(await process.stdout.readexactly(HEADER.size))
                answer = decoder.decode(await process.stdout.readexactly(size))
                if answer.number == 0:
                    self._refusal = answer
                    continue
                answered = self._waiting.get(answer.number)
                if answered is not None and not answered.done():
                    answered.set_result(answer)
        except (asyncio.IncompleteReadError, OSError, msgspec.DecodeError):
            pass
        finally:
            # From here on a call starts another process: nobody would answer it here.
            self._process = None
            waiting = list(self._waiting.values())
            for answered in waiting:
                if not answered.done():
                    answered.set_result(self._refusal)
            if waiting or not self._is_closed:
                self._log.warning("the process of the vectors ended", waiting=len(waiting))
            await _ended(process)


async def _ended(process: Process) -> None:
    """Wait for the end of a process that says nothing more; it is killed if that does not come."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _bytes(vector: Vector) -> bytes:
    with np.errstate(over="ignore"):
        row = np.ascontiguousarray(vector, np.float32)
    if row.ndim != 1:
        raise InvalidRequest("a vector is one row of numbers")
    return row.tobytes()


def _vector(data: bytes | None) -> Vector | None:
    return None if data is None else np.frombuffer(bytearray(data), np.float32)


def _point(one: Kept) -> Point:
    return Point(one.id, _vector(one.vector), one.payload)
