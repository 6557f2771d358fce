"""Collections of faces that move to another network while they go on answering: the move is begun, fed with images, and ended.

The register says that a collection moves, and where to. Then anybody who has its images brings them, in any order, as often
as they like, whatever was stopped in between; faces that are enrolled meanwhile reach both places. Once all have arrived, the
register names the next place in one step, and the old one is dropped.
"""

from __future__ import annotations

from typing import Any

import msgspec

from phalanx.contract.collections import FacesContract, ReembedRequest, ReembedStatusRequest, ReembedView
from phalanx.contract.gallery import ReembedFacesRequest, ReembedFacesResponse
from phalanx.errors import Conflict, InvalidRequest, ModelNotFound, NotFound, UnreadableInput
from phalanx.services.collections.contracts import Contracts, encode_contract
from phalanx.services.collections.face_moving import Carried, FaceCarrier
from phalanx.services.collections.point_shapes import SOURCE_KEY
from phalanx.services.collections.registry import Collection, CollectionRegistry, ensure_next_place, new_place
from phalanx.services.faces.service import FaceService
from phalanx.services.ticket import Ticket
from phalanx.telemetry import Log

ATTEMPTS = 5


class FaceReembedService:
    """Moves collections of faces to the network that serves now, given their images."""

    def __init__(
        self, registry: CollectionRegistry, contracts: Contracts, carrier: FaceCarrier, faces: FaceService, log: Log
    ) -> None:
        self._registry = registry
        self._store = registry.store
        self._contracts = contracts
        self._carrier = carrier
        self._faces = faces
        self._log = log

    async def start(self, ticket: Ticket, request: ReembedRequest) -> ReembedView:
        """Begin to move a collection, go on, or, when no more images come, be done with it.

        A collection that is asked back to where it is gives its move up. Raises `Conflict` when it is not said that images
        will come, `NotFound`, `ModelNotFound`, `InvalidRequest` for an unknown detector, `Unavailable`.
        """
        for _ in range(ATTEMPTS):
            found = await self._find(ticket, request.name, request.organisation)
            wanted = self._wanted(found, request)
            if found.next_contract is None and _same(found.contract, wanted):
                return await self._view(found)
            if request.images is None:
                raise Conflict(
                    f"the collection {request.name!r} is one of faces, and of images only their digests are kept: it moves "
                    f"when these are brought, by `phalanx collections reembed {request.name} --images FOLDER`, or else "
                    "they must be enrolled anew, into another collection",
                    param="images",
                )
            if found.next_contract == wanted:
                break
            is_back = _same(found.contract, wanted)
            coming = found.record._replace(
                next_place="" if is_back else new_place(found.organisation, found.name),
                next_contract="" if is_back else encode_contract(wanted),
            )
            if await self._registry.records.replace(found.record, coming):
                self._registry.forget(found.organisation, found.name)
                if found.next_place:
                    await self._store.drop(found.next_place)
        else:
            raise Conflict(f"the collection {request.name!r} is being changed by others; try again")
        await ensure_next_place(self._store, found)
        await self._settle(found, leave_out=request.images == "complete")
        return await self._view(await self._find(ticket, request.name, request.organisation))

    async def carry(self, ticket: Ticket, request: ReembedFacesRequest) -> ReembedFacesResponse:
        """Bring the faces that were enrolled from an image to where their collection moves to.

        Raises `NotFound`, `Conflict` when the collection does not move, `ContractMismatch`, and what intake, models and
        store raise. An image of none of the faces is no error.
        """
        if request.image is None:
            raise InvalidRequest("send an image", param="image")
        data, _ = await self._faces.read(ticket, request.image)
        if not data:
            raise UnreadableInput("the image is empty", param="image")

        async def work(collection: Collection) -> tuple[Collection, Carried]:
            if not collection.next_place:
                raise Conflict(f"the collection {request.name!r} does not move to another network", param="name")
            return collection, await self._carrier.carry(ticket, collection, data)

        found, carried = await self._registry.write(
            ticket, request.name, work, kind="faces", organisation=request.organisation
        )
        return ReembedFacesResponse(
            faces=carried.faces, carried=carried.carried, points=await self._count(found.place),
            moved=await self._count(found.next_place),
        )  # fmt: skip

    async def show(self, ticket: Ticket, request: ReembedStatusRequest) -> ReembedView:
        """Return how far a collection has moved. Raises `NotFound`, `Conflict`."""
        return await self._view(await self._find(ticket, request.name, request.organisation))

    async def _view(self, found: Collection) -> ReembedView:
        points = await self._count(found.place)
        moved = await self._count(found.next_place) if found.next_place else points
        return ReembedView(
            name=found.name, state="waiting" if found.next_place else "settled", contract=found.contract, points=points,
            moved=min(moved, points), next_contract=found.next_contract,
        )  # fmt: skip

    async def _find(self, ticket: Ticket, name: str, organisation: str | None) -> Collection:
        return await self._registry.find(ticket, name, kind="faces", organisation=organisation, fresh=True)

    def _wanted(self, found: Collection, request: ReembedRequest) -> FacesContract:
        """Return what a collection is to move to: what is asked for, what it moves to, what it has, the defaults."""
        pinned, coming = found.contract, found.next_contract
        assert isinstance(pinned, FacesContract)
        asked = (request.model, request.version, request.detector)
        if asked == (None, None, None) and isinstance(coming, FacesContract) and self._contracts.has_faces(coming):
            return coming
        detector = request.detector or (pinned.detector if self._contracts.has_detector(pinned.detector) else None)
        if request.model is not None:
            return self._contracts.faces(request.model, detector, request.version)
        try:
            return self._contracts.faces(pinned.model, detector, request.version)
        except ModelNotFound:
            return self._contracts.faces(None, detector, request.version)

    async def _settle(self, found: Collection, *, leave_out: bool) -> None:
        """Have the register name the next place, if all faces are there, or if those that are not are left out."""
        arrived: dict[str, str] = {}
        superfluous = []
        there = {point.id async for point in self._carrier.points(found.place)}
        async for point in self._carrier.points(found.next_place):
            source = point.payload.get(SOURCE_KEY, "")
            if source not in there or source in arrived:
                superfluous.append(point.id)
            else:
                arrived[source] = point.id
        if superfluous:
            await self._store.delete(found.next_place, superfluous)
        missing = len(there) - len(arrived)
        if missing and not leave_out:
            return
        record = found.record
        settled = record._replace(
            place=record.next_place, contract=record.next_contract, next_place="", next_contract=""
        )
        if await self._registry.records.replace(record, settled):
            self._registry.forget(record.organisation, record.name)
            await self._store.drop(record.place)
            self._log.info(
                "collection moved", collection=record.name, organisation=record.organisation, points=len(arrived),
                left_out=missing,
            )  # fmt: skip

    async def _count(self, place: str) -> int:
        try:
            return await self._store.count(place)
        except NotFound:
            # It has not been made yet, or is gone by now.
            return 0


def _same(pinned: Any, wanted: FacesContract) -> bool:
    """Whether vectors of two contracts can be compared: the threshold is the collection's own."""
    return isinstance(pinned, FacesContract) and pinned == msgspec.structs.replace(wanted, threshold=pinned.threshold)
