"""Collections of texts that move to another model while they go on answering.

The register says that a collection moves, and where to; from then on every write reaches both places. The copying keeps no
record of how far it is. A copy that was stopped, by `kill -9` too, starts again from the beginning, and soon is where it was,
since points that have arrived already cost only a look. At the end the register names the next place in one step, and the
old one is dropped.
"""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Literal, TypeVar

from phalanx.contract.collections import ReembedRequest, ReembedStatusRequest, ReembedView, TextsContract
from phalanx.errors import (
    Conflict,
    DeadlineExceeded,
    InvalidRequest,
    ModelNotFound,
    NotFound,
    Overloaded,
    PhalanxError,
    Unavailable,
)
from phalanx.ports import CollectionRecord
from phalanx.services.collections.contracts import encode_contract
from phalanx.services.collections.face_reembedding import FaceReembedService
from phalanx.services.collections.moving import Carrier, TextVectors
from phalanx.services.collections.registry import Collection, CollectionRegistry, ensure_next_place, new_place
from phalanx.services.ticket import Ticket
from phalanx.telemetry import Log

PAGE = 64
"""Points that are carried at once: a second's work of a text model on two cores, behind which others need not wait long."""
PATIENCE_S = (0.5, 1.0, 2.0, 5.0, 15.0)
"""How long to wait, in seconds, before what is overloaded or down is asked again; the last one from then on."""
ATTEMPTS = 5

Key = tuple[str, str]
"""An organisation and the name of a collection."""
T = TypeVar("T")


class Moves:
    """Collections that are being moved by this process. `close` it before the stores."""

    def __init__(self) -> None:
        self._tasks: dict[Key, asyncio.Task[None]] = {}

    def __contains__(self, key: Key) -> bool:
        return key in self._tasks

    def begin(self, key: Key, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Begin to move a collection, unless it is being moved."""
        if key not in self._tasks:
            self._tasks[key] = task = asyncio.create_task(work())
            task.add_done_callback(lambda done: self._forget(key, done))

    async def stop(self, key: Key) -> None:
        """End a move where it is."""
        task = self._tasks.pop(key, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def close(self) -> None:
        """End all moves where they are."""
        for key in list(self._tasks):
            await self.stop(key)

    def _forget(self, key: Key, done: asyncio.Task[None]) -> None:
        if self._tasks.get(key) is done:
            del self._tasks[key]


class ReembedService:
    """Moves collections to the model that serves now. `moves` are those under way in this process."""

    def __init__(
        self,
        registry: CollectionRegistry,
        vectors: TextVectors,
        carrier: Carrier,
        moves: Moves,
        faces: FaceReembedService,
        log: Log,
    ) -> None:
        self._registry = registry
        self._vectors = vectors
        self._carrier = carrier
        self._moves = moves
        self._faces = faces
        self._log = log
        self._errors: dict[Key, str] = {}

    async def start(self, ticket: Ticket, request: ReembedRequest) -> ReembedView:
        """Begin to move a collection, or go on with it; one that has nothing to do is left as it is.

        The ticket is at no deadline: its work goes on when the call is answered, under the caller's name. Raises
        `Conflict` for a collection of vectors, and one of faces without images; `InvalidRequest`, `NotFound`,
        `ModelNotFound`, `Unavailable`.
        """
        if not math.isinf(ticket.deadline):
            raise ValueError("a move outlives its call: the row must not have a deadline")
        asked = await self._registry.find(ticket, request.name, organisation=request.organisation)
        if asked.record.kind == "faces":
            return await self._faces.start(ticket, request)
        for field in ("images", "detector"):
            if getattr(request, field) is not None:
                raise InvalidRequest(f"{field} goes with a collection of faces", param=field)
        for _ in range(ATTEMPTS):
            found = await self._find(ticket, request.name, request.organisation)
            wanted = self._wanted(found, request.model, request.version)
            if found.next_contract == wanted:
                break
            if found.next_contract is None and found.contract == wanted:
                return await self._view(found)
            coming = found.record._replace(
                next_place=new_place(found.organisation, found.name), next_contract=encode_contract(wanted)
            )
            if await self._registry.records.replace(found.record, coming):
                self._registry.forget(found.organisation, found.name)
                if found.next_place:
                    await self._moves.stop((found.organisation, found.name))
                    await self._registry.store.drop(found.next_place)
        else:
            raise Conflict(f"the collection {request.name!r} is being changed by others; try again")
        key = (found.organisation, found.name)
        if key not in self._moves:
            self._errors.pop(key, None)
            self._moves.begin(key, lambda: self._move(ticket, key))
        return await self._view(found)

    async def show(self, ticket: Ticket, request: ReembedStatusRequest) -> ReembedView:
        """Return how far a collection has moved. Raises `NotFound`, `Conflict`."""
        found = await self._registry.find(ticket, request.name, organisation=request.organisation, fresh=True)
        if found.record.kind == "faces":
            return await self._faces.show(ticket, request)
        return await self._view(await self._find(ticket, request.name, request.organisation))

    async def _find(self, ticket: Ticket, name: str, organisation: str | None) -> Collection:
        found = await self._registry.find(ticket, name, organisation=organisation, fresh=True)
        if found.record.kind == "texts":
            return found
        raise Conflict(f"the collection {name!r} is one of {found.record.kind}: its vectors are the caller's own")

    def _wanted(self, found: Collection, model: str | None, version: str | None) -> TextsContract:
        """Return what a collection is to move to: the model that is asked for, that it moves to, that it has, the default."""
        contracts = self._vectors.contracts
        if model is not None:
            return contracts.texts(model, version)
        coming, pinned = found.next_contract, found.contract
        if version is None and isinstance(coming, TextsContract) and self._vectors.serves(found.name, coming):
            return coming
        try:
            return contracts.texts(getattr(pinned, "model", None), version)
        except ModelNotFound:
            return contracts.texts(None, version)

    async def _view(self, found: Collection) -> ReembedView:
        key = (found.organisation, found.name)
        state: Literal["settled", "moving", "halted"] = "settled"
        if found.next_place:
            state = "moving" if key in self._moves else "halted"
        points = await self._count(found.place)
        moved = await self._count(found.next_place) if found.next_place else points
        return ReembedView(
            name=found.name, state=state, contract=found.contract, points=points, moved=min(moved, points),
            next_contract=found.next_contract, error=self._errors.get(key, ""),
        )  # fmt: skip

    async def _count(self, place: str) -> int:
        try:
            return await self._registry.store.count(place)
        except NotFound:
            # It has not been made yet, or is gone by now.
            return 0

    async def _move(self, ticket: Ticket, key: Key) -> None:
        """Copy a collection and switch to the copy; what ended it early is kept in `_errors`."""
        organisation, name = key
        try:
            found = await self._find(ticket, name, organisation)
            if not found.next_place:
                return
            await self._patiently(key, lambda: ensure_next_place(self._registry.store, found))
            carried = await self._copy(ticket, key, found)
            if await self._switch(found.record):
                self._log.info("collection moved", collection=name, organisation=organisation, points=carried)
        except PhalanxError as error:
            self._errors[key] = error.detail
            self._log.error("collection not moved", collection=name, organisation=organisation, reason=error.detail)
        except Exception as error:
            self._errors[key] = "something went wrong here; the log says what"
            self._log.exception("collection not moved", collection=name, organisation=organisation, error=repr(error))

    async def _copy(self, ticket: Ticket, key: Key, found: Collection) -> int:
        """Carry all points; then do away with what only the next place has, left by a writer that was killed half way."""
        store, carried = self._registry.store, 0
        for place in (found.place, found.next_place):
            after = None
            while True:
                page = await self._patiently(key, functools.partial(store.scroll, place, after=after, limit=PAGE))
                ids = [point.id for point in page]
                if ids:
                    await self._patiently(key, functools.partial(self._carrier.carry, ticket, found, ids))
                    carried, after = carried + len(ids) * (place == found.place), ids[-1]
                if len(page) < PAGE:
                    break
        return carried

    async def _switch(self, record: CollectionRecord) -> bool:
        """Have the register name the next place, if it says what it did; then drop the old one."""
        settled = record._replace(
            place=record.next_place, contract=record.next_contract, next_place="", next_contract=""
        )
        if not await self._registry.records.replace(record, settled):
            return False
        self._registry.forget(record.organisation, record.name)
        await self._registry.store.drop(record.place)
        return True

    async def _patiently(self, key: Key, work: Callable[[], Awaitable[T]]) -> T:
        """Do work, and again as long as what it needs is overloaded or down."""
        attempt = 0
        while True:
            try:
                done = await work()
            except (Overloaded, Unavailable, DeadlineExceeded) as error:
                self._errors[key] = error.detail
                await asyncio.sleep(PATIENCE_S[min(attempt, len(PATIENCE_S) - 1)])
                attempt += 1
            else:
                self._errors.pop(key, None)
                return done
