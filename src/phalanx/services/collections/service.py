"""Collections as their organisation sees them; `registry` is what finds them."""

from __future__ import annotations

from phalanx.contract.collections import (
    CollectionKind,
    CollectionRequest,
    CollectionView,
    Contract,
    CreateCollectionRequest,
    DeleteCollectionResponse,
    ListCollectionsRequest,
    ListCollectionsResponse,
)
from phalanx.errors import Conflict
from phalanx.ports import Clock, CollectionRecord
from phalanx.services.collections.contracts import Contracts, encode_contract, require_same
from phalanx.services.collections.registry import (
    INDEXED,
    Collection,
    CollectionRegistry,
    collection_of,
    ensure_place,
    new_place,
    organisation_of,
)
from phalanx.services.ticket import Ticket

MAX_COLLECTIONS = 256
"""Collections of one organisation: each has files open, and memory of its own."""


class CollectionService:
    """Lists, creates, shows and deletes collections."""

    def __init__(self, registry: CollectionRegistry, contracts: Contracts, clock: Clock) -> None:
        self._registry = registry
        self._contracts = contracts
        self._clock = clock

    async def list(self, ticket: Ticket, request: ListCollectionsRequest) -> ListCollectionsResponse:
        """Return the caller's collections; the operator's, who names no organisation, are all. Raises `Forbidden`."""
        records, caller = self._registry.records, ticket.caller
        if request.organisation is None and caller.is_operator:
            organisation, _, name = request.after.rpartition("/")
            found = await records.list_all(after=(organisation, name), limit=request.limit + 1)
            last = [f"{record.organisation}/{record.name}" for record in found[: request.limit]][-1:]
        else:
            organisation = organisation_of(caller, request.organisation)
            found = await records.list(organisation, after=request.after, limit=request.limit + 1)
            last = [record.name for record in found[: request.limit]][-1:]
        views = [view(collection_of(record)) for record in found[: request.limit]]
        return ListCollectionsResponse(collections=views, next=last[0] if len(found) > request.limit else None)

    async def create(self, ticket: Ticket, request: CreateCollectionRequest) -> CollectionView:
        """Make a collection, or return the one that is there with the same contract.

        Raises `Conflict` when it is there with another, or the organisation has 256; `ContractMismatch` when it is pinned
        to another version of its model than the one that serves; `InvalidRequest`, `ModelNotFound`, `Unavailable`.
        """
        organisation = organisation_of(ticket.caller, request.organisation)
        contract, records = self._contracts.asked(request), self._registry.records
        if await records.find(organisation, request.name) is None:
            if len(await records.list(organisation, limit=MAX_COLLECTIONS)) >= MAX_COLLECTIONS:
                raise Conflict(f"an organisation may have {MAX_COLLECTIONS} collections, as this one has")
            # What is listed is there: nothing is, while no vectors could be kept.
            await self._registry.store.places()
        record = CollectionRecord(
            organisation, request.name, request.kind, new_place(organisation, request.name), encode_contract(contract),
            self._clock.now(),
        )  # fmt: skip
        kept = collection_of(await records.create(record))
        self._registry.forget(organisation, request.name)
        _require_as_asked(request, kept, contract)
        # Also for one that is there: whoever made it may have been killed before it got here.
        await ensure_place(self._registry.store, kept)
        return view(kept)

    async def get(self, ticket: Ticket, request: CollectionRequest) -> CollectionView:
        """Return a collection. Raises `NotFound`, `Forbidden`."""
        found = await self._registry.find(ticket, request.name, organisation=request.organisation, fresh=True)
        return view(found)

    async def delete(self, ticket: Ticket, request: CollectionRequest) -> DeleteCollectionResponse:
        """Do away with a collection and all its points. Raises `NotFound`, `Forbidden`, `Unavailable`.

        The points go first: when this ends half way the collection is still listed, and may be deleted again.
        """
        found = await self._registry.find(ticket, request.name, organisation=request.organisation, fresh=True)
        await self._drop(found.record)
        gone = await self._registry.records.delete(found.organisation, found.name)
        self._registry.forget(found.organisation, found.name)
        if gone is not None:
            await self._drop(gone)
        return DeleteCollectionResponse(deleted=found.name)

    async def _drop(self, record: CollectionRecord) -> None:
        for place in (record.place, record.next_place):
            if place:
                await self._registry.store.drop(place)


def view(collection: Collection) -> CollectionView:
    """Return a collection as it is shown."""
    record = collection.record
    kind: CollectionKind = next(kind for kind in INDEXED if kind == record.kind)
    return CollectionView(
        name=record.name, kind=kind, organisation=record.organisation, contract=collection.contract, place=record.place,
        created_at=record.created_at, next_contract=collection.next_contract, next_place=record.next_place,
    )  # fmt: skip


def _require_as_asked(request: CreateCollectionRequest, kept: Collection, asked: Contract) -> None:
    if kept.record.kind != request.kind:
        said = f"the collection {request.name!r} is there, as one of {kept.record.kind}"
        raise Conflict(said, param="kind")
    if kept.contract == asked:
        return
    if request.kind != "vectors" and (request.model is None or getattr(asked, "model", "") == _model(kept)):
        require_same(request.name, kept.contract, asked)
        return
    raise Conflict(f"the collection {request.name!r} is there with another contract: {encode_contract(kept.contract)}")


def _model(collection: Collection) -> str:
    return str(getattr(collection.contract, "model", ""))
