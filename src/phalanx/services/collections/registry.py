"""The register of collections: which there are, what they are pinned to, and where their points are.

`CollectionRegistry` is what other services build upon:

- `await registry.find(ticket, name, kind="faces")` returns the `Collection` of the ticket's organisation: its `place` in the
  store of vectors and its `contract`. Raises `NotFound`, and `Conflict` when it is of another kind. What it returns may be a
  second old: for reading.
- `await registry.read(ticket, name, work, kind=…)` runs `work(collection)`, and once more with what is known now when the
  points have moved meanwhile: for searches.
- `await registry.write(ticket, name, work, kind=…)` runs `work(collection)`, and again while the collection moves to another
  place meanwhile, so that no write is lost: `work` must come to the same when it is done twice (an upsert, a delete).
- `require_same(name, collection.contract, contracts.faces(model))` of the module `contracts` raises `ContractMismatch` when
  another model serves than the collection is pinned to.
- `registry.store` is the `VectorStore`.

All take `organisation` too: an administrator of the installation may name one, others see their own.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple, TypeVar

from phalanx.contract.collections import CollectionKind, Contract
from phalanx.errors import Conflict, DeadlineExceeded, Forbidden, NotFound
from phalanx.ports import Clock, CollectionRecord, CollectionStore, VectorStore
from phalanx.services.collections.contracts import decode_contract
from phalanx.services.ticket import Caller, Ticket

KNOWN_FOR_S = 1.0
"""For how long a record is taken as known by what only reads."""
MAX_KNOWN = 10_000
INDEXED: dict[CollectionKind, tuple[str, ...]] = {
    "vectors": (), "texts": (), "faces": ("person_id", "image_sha256"),
}  # fmt: skip
"""Payload keys by which points of a kind are looked for."""
SLUG_CHARS = 32
PAGE = 256

T = TypeVar("T")


class Collection(NamedTuple):
    """A collection: its record, and the contracts that the record holds as text."""

    record: CollectionRecord
    contract: Contract
    next_contract: Contract | None

    @property
    def name(self) -> str:
        """The name that its organisation knows it by."""
        return self.record.name

    @property
    def organisation(self) -> str:
        """Whose it is."""
        return self.record.organisation

    @property
    def place(self) -> str:
        """What it is called in the store of vectors."""
        return self.record.place

    @property
    def next_place(self) -> str:
        """Where its points move to; empty when they do not."""
        return self.record.next_place


class CollectionRegistry:
    """Finds collections for callers; see the module."""

    def __init__(self, records: CollectionStore, store: VectorStore, clock: Clock) -> None:
        self.records = records
        self.store = store
        self._clock = clock
        self._known: dict[tuple[str, str], tuple[float, Collection]] = {}

    async def find(
        self,
        ticket: Ticket,
        name: str,
        *,
        kind: CollectionKind | None = None,
        organisation: str | None = None,
        fresh: bool = False,
    ) -> Collection:
        """Return a collection as it was known within the last second, or, if `fresh`, as it is now.

        Raises `NotFound`, `Conflict` for another kind, `Forbidden` for another organisation, `Unavailable`.
        """
        key = (organisation_of(ticket.caller, organisation), name)
        now = self._clock.monotonic()
        known = self._known.get(key)
        if known is not None and not fresh and now - known[0] < KNOWN_FOR_S:
            found = known[1]
        else:
            record = await self.records.find(*key)
            if record is None:
                self._known.pop(key, None)
                raise absent(name)
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            found = known[1] if known is not None and known[1].record == record else collection_of(record)
            self._known[key] = (now, found)
        if kind is not None and found.record.kind != kind:
            raise Conflict(f"the collection {name!r} is one of {found.record.kind}; this call is for {kind}")
        return found

    def forget(self, organisation: str, name: str) -> None:
        """Ask anew for a collection at the next look."""
        self._known.pop((organisation, name), None)

    async def sweep(self) -> list[str]:
        """Drop places that a collection has left, or never came to, because its worker was stopped; return them.

        Places that no collection of ours was ever in are others' business. What is listed before the records are read
        cannot be of a collection that was made meanwhile.
        """
        places, dropped = await self.store.places(), []
        async for record in self.moving(all_of_them=True):
            before = record.place.rpartition("__")[0]
            for place in places:
                if place.rpartition("__")[0] == before and place not in (record.place, record.next_place):
                    await self.store.drop(place)
                    dropped.append(place)
        return dropped

    async def moving(self, *, all_of_them: bool = False) -> AsyncIterator[CollectionRecord]:
        """Yield the records of collections that move to another place, or of all collections."""
        after = ("", "")
        while True:
            page = await self.records.list_all(after=after, limit=PAGE)
            for record in page:
                if all_of_them or record.next_place:
                    yield record
            if len(page) < PAGE:
                return
            after = (page[-1].organisation, page[-1].name)

    async def read(
        self,
        ticket: Ticket,
        name: str,
        work: Callable[[Collection], Awaitable[T]],
        *,
        kind: CollectionKind | None = None,
        organisation: str | None = None,
    ) -> T:
        """Run `work` on a collection; once more when it was of a place that the points have left. Raises what `find` does."""
        async with self._until(ticket):
            found = await self.find(ticket, name, kind=kind, organisation=organisation)
            try:
                return await work(found)
            except NotFound:
                now = await self.find(ticket, name, kind=kind, organisation=organisation, fresh=True)
                if now.record == found.record:
                    raise
                return await work(now)

    async def write(
        self,
        ticket: Ticket,
        name: str,
        work: Callable[[Collection], Awaitable[T]],
        *,
        kind: CollectionKind | None = None,
        organisation: str | None = None,
    ) -> T:
        """Run `work` on a collection until the record was the same before and after it; see the module.

        Without that, a write that began before a move would reach the old place alone, behind the back of who copies.
        Raises what `find` does.
        """
        async with self._until(ticket):
            found = await self.find(ticket, name, kind=kind, organisation=organisation, fresh=True)
            while True:
                failed = None
                try:
                    done = await work(found)
                except NotFound as error:
                    failed = error
                now = await self.find(ticket, name, kind=kind, organisation=organisation, fresh=True)
                if now.record == found.record:
                    if failed is not None:
                        raise failed
                    return done
                found = now

    @asynccontextmanager
    async def _until(self, ticket: Ticket) -> AsyncIterator[None]:
        """End what takes longer than the ticket lasts. A write that has reached the store by then may be done."""
        left = None if math.isinf(ticket.deadline) else max(0.0, ticket.deadline - self._clock.monotonic())
        try:
            async with asyncio.timeout(left):
                yield
        except TimeoutError:
            raise DeadlineExceeded("the collection was not done with before the deadline") from None


async def ensure_place(store: VectorStore, collection: Collection) -> None:
    """Make a collection's place, unless it is there."""
    pinned = collection.contract
    keys = indexed(collection)
    await store.create(collection.place, dimensions=pinned.dimensions, distance=pinned.metric, indexed=keys)


async def ensure_next_place(store: VectorStore, collection: Collection) -> None:
    """Make the place that a collection moves to, unless it is there."""
    coming = collection.next_contract
    assert coming is not None
    keys = indexed(collection)
    await store.create(collection.next_place, dimensions=coming.dimensions, distance=coming.metric, indexed=keys)


def indexed(collection: Collection) -> tuple[str, ...]:
    """Return the payload keys by which points of a collection are looked for."""
    return next(keys for kind, keys in INDEXED.items() if kind == collection.record.kind)


def organisation_of(caller: Caller, asked: str | None) -> str:
    """Return whose collections a call is about. Raises `Forbidden` for another organisation than the caller's own."""
    if asked is None or asked == caller.organisation:
        return caller.organisation
    if "admin" not in caller.scopes:
        raise Forbidden("only an admin may see the collections of another organisation", param="organisation")
    return asked


def collection_of(record: CollectionRecord) -> Collection:
    """Return what a record says."""
    coming = decode_contract(record.next_contract) if record.next_contract else None
    return Collection(record, decode_contract(record.contract), coming)


def new_place(organisation: str, name: str) -> str:
    """Return a name that no place has had: `<organisation>-<digest>__<collection>__<random>`.

    What stands before the last `__` is the same for all places that a collection ever has; the digest, of 8 hex digits,
    keeps organisations apart whose ids look alike when only letters and digits are left of them.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", organisation.lower())[:SLUG_CHARS].strip("-")
    digest = hashlib.sha256(organisation.encode()).hexdigest()[:8]
    return f"{slug}-{digest}__{name}__{secrets.token_hex(4)}".lstrip("-")


def absent(name: str) -> NotFound:
    """Word that there is no such collection."""
    return NotFound(f"there is no collection {name!r}", param="name")
