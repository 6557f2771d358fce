"""Galleries: persons whose faces are enrolled in a collection of faces, found again, listed and forgotten."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

from phalanx.contract.collections import FacesContract
from phalanx.contract.faces import FoundFace
from phalanx.contract.gallery import (
    EnrolledFace,
    EnrolRequest,
    EnrolResponse,
    EnrolResult,
    ForgetPersonRequest,
    ForgetPersonResponse,
    IdentifyRequest,
    IdentifyResponse,
    IdentifyResult,
    ListPersonsRequest,
    ListPersonsResponse,
    PersonCount,
    PersonRequest,
    PersonResponse,
)
from phalanx.contract.vector import Vector
from phalanx.engines.face.facts import Face
from phalanx.errors import Conflict, ContractMismatch, NotFound, Unavailable
from phalanx.ports import Clock, Hit, Point
from phalanx.services.collections.face_moving import FaceCarrier, serving_faces
from phalanx.services.collections.gallery_shapes import (
    PERSON_KEY,
    check_metadata,
    check_person,
    contract_digest,
    face_id,
    only_person,
    payload_of,
    view_face,
)
from phalanx.services.collections.gallery_verdicts import choose_faces, describe_search, identified, require_quality
from phalanx.services.collections.registry import Collection, CollectionRegistry
from phalanx.services.faces.finding import FaceFinder, Looking, Seen, submit
from phalanx.services.faces.service import EMBEDDING_SIDE, FaceService, each
from phalanx.services.serving.face_models import FaceModels, ServedDetector, ServedEmbedder
from phalanx.services.ticket import Ticket

STAGES = ("detect", "quality", "align", "embed", "store")
"""What enrolling one image reports as it begins each; taking the image in is part of the first."""

HITS_A_PERSON = 4
"""Faces looked at for each person that is to be named, at first; more where some have many faces near."""
MAX_HITS = 4096
"""Faces looked at for one that is to be identified: beyond these, fewer persons than asked for are named."""


T = TypeVar("T")


class Pinned(NamedTuple):
    """A collection of faces with the models that it is pinned to."""

    collection: Collection
    contract: FacesContract
    embedder: ServedEmbedder
    detector: ServedDetector


class _Moved(Exception):
    """The collection has moved to another network, or was made anew, while a face was looked at: look again."""


class Sighted(NamedTuple):
    """A face of an image: its number from the left, what it looks like, its vector."""

    number: int
    found: FoundFace
    vector: Vector


class GalleryService:
    """Persons by their faces, in collections that are pinned to one network, one way of aligning and one detector."""

    def __init__(
        self,
        registry: CollectionRegistry,
        models: FaceModels,
        finder: FaceFinder,
        faces: FaceService,
        carrier: FaceCarrier,
        clock: Clock,
    ) -> None:
        self._registry = registry
        self._store = registry.store
        self._models = models
        self._finder = finder
        self._faces = faces
        self._carrier = carrier
        self._clock = clock

    async def enrol(self, ticket: Ticket, request: EnrolRequest) -> EnrolResponse:
        """Keep the face of one image, or of each of several, as a person's. What was enrolled already stays one face.

        Raises `NotFound`, `Conflict` for a collection of another kind and a face that is enrolled as another person's,
        `ContractMismatch`, `InvalidRequest`, `TooLarge`; for one image `NoFace`, `SeveralFaces`, `LowQuality` and what
        intake, models and store raise. Of several images each has its own error.
        """
        check_person(request.person_id)
        check_metadata(request.metadata)
        return await self._twice(ticket, request.name, lambda: self._enrol(ticket, request))

    async def _enrol(self, ticket: Ticket, request: EnrolRequest) -> EnrolResponse:
        pinned = await self._pinned(ticket, request.name, request.organisation)

        def begin(stage: str) -> None:
            # Of several images the part that is done is reported: their stages overlap.
            if request.images is None:
                ticket.report(STAGES.index(stage) / len(STAGES), stage)

        async def one(image: Any) -> EnrolResult:
            begin("detect")
            data, digest = await self._faces.read(ticket, image)
            seen = await self._finder.look(ticket, pinned.detector, data, request, EMBEDDING_SIDE)
            chosen = choose_faces(seen.faces, request.face)
            begin("quality")
            (found,) = await self._faces.describe(ticket, seen, chosen)
            require_quality(found, request.min_quality)
            begin("align")
            prepared = await self._faces.align(ticket, pinned.embedder, seen, chosen)
            begin("embed")
            (vector,) = await submit(ticket, pinned.embedder.runner, prepared)
            begin("store")
            face = Sighted(_number(seen, chosen[0]), found, vector)
            kept, created = await self._keep(ticket, pinned, request, digest.hex(), face, data)
            ticket.meter.units += 1
            return EnrolResult(face=kept, created=created, measures=found.measures)

        results = await each(ticket, request.image, request.images, one, lambda error: EnrolResult(error=error))
        _name(ticket, pinned)
        rest: dict[str, Any] = {"results": results}
        if request.images is None:
            rest = {name: getattr(results[0], name) for name in ("face", "created", "measures")}
        return EnrolResponse(person_id=request.person_id, model=pinned.contract.model, **rest)

    async def identify(self, ticket: Ticket, request: IdentifyRequest) -> IdentifyResponse:
        """Name the persons whose faces are nearest to those of one image, or of each of several.

        Raises `NotFound`, `Conflict` for a collection of another kind, `ContractMismatch`, `InvalidRequest`; for one image
        `NoFace`, `SeveralFaces` and what intake, models and store raise. Of several images each has its own error.
        """
        return await self._twice(ticket, request.name, lambda: self._identify(ticket, request))

    async def _identify(self, ticket: Ticket, request: IdentifyRequest) -> IdentifyResponse:
        pinned = await self._pinned(ticket, request.name, request.organisation, or_next=True)
        contract = pinned.contract
        threshold = contract.threshold if request.threshold is None else request.threshold

        async def one(image: Any) -> IdentifyResult:
            data, _ = await self._faces.read(ticket, image)
            sighted = await self._sight(ticket, pinned, data, request, request.face)
            named = []
            for face in sighted:
                hits = await self._nearest(ticket, request, contract, face.vector)
                named.append(identified(face.found, hits, contract, threshold))
            ticket.meter.units += 1
            return IdentifyResult(faces=named)

        async def size(collection: Collection) -> tuple[int, float | None]:
            place = _place(collection, contract)
            compared = await self._store.count(place, request.filter)
            if place == collection.place:
                return compared, None
            all_of_them = await self._store.count(collection.place)
            return compared, min(1.0, await self._store.count(place) / all_of_them) if all_of_them else 1.0

        compared, moved = await self._registry.read(
            ticket, request.name, size, kind="faces", organisation=request.organisation
        )
        results = await each(ticket, request.image, request.images, one, lambda error: IdentifyResult(error=error))
        _name(ticket, pinned)
        rest: dict[str, Any] = {"results": results} if request.images is not None else {"faces": results[0].faces}
        return IdentifyResponse(
            model=contract.model, metric=contract.metric, threshold=threshold,
            search=describe_search(contract, threshold, compared, pinned.embedder.embedder.spec.meaning), moved=moved,
            landmarks_estimated=pinned.detector.estimated, **rest,
        )  # fmt: skip

    async def persons(self, ticket: Ticket, request: ListPersonsRequest) -> ListPersonsResponse:
        """Return the persons of a gallery with how many faces each has. Raises `NotFound`, `Conflict` for another kind."""

        async def work(collection: Collection) -> tuple[list[tuple[str, int]], int]:
            counts = await self._store.tally(collection.place, PERSON_KEY, limit=request.limit + 1)
            return counts, await self._store.count(collection.place)

        counts, faces = await self._registry.read(
            ticket, request.name, work, kind="faces", organisation=request.organisation
        )
        ticket.meter.items = len(counts[: request.limit])
        persons = [PersonCount(id=person, faces=count) for person, count in counts[: request.limit]]
        return ListPersonsResponse(persons=persons, faces=faces, complete=len(counts) <= request.limit)

    async def person(self, ticket: Ticket, request: PersonRequest) -> PersonResponse:
        """Return a page of a person's faces. Raises `NotFound` for the collection and the person, `Conflict`."""
        check_person(request.id)
        only = only_person(request.id)

        async def work(collection: Collection) -> tuple[list[Point], int]:
            after, limit = request.after, request.limit + 1
            found = await self._store.scroll(collection.place, after=after, limit=limit, only=only)
            return found, await self._store.count(collection.place, only)

        found, count = await self._registry.read(
            ticket, request.name, work, kind="faces", organisation=request.organisation
        )
        if not count:
            raise _nobody(request.name, request.id)
        page = found[: request.limit]
        ticket.meter.items = len(page)
        following = page[-1].id if len(found) > request.limit else None
        return PersonResponse(id=request.id, count=count, faces=[view_face(point) for point in page], next=following)

    async def forget(self, ticket: Ticket, request: ForgetPersonRequest) -> ForgetPersonResponse:
        """Delete all that is kept of a person in a gallery, wherever its points are on their way to.

        Raises `NotFound` for the collection, and for a person of whom there is nothing; `Conflict`.
        """
        check_person(request.id)
        only, deleted = only_person(request.id), 0

        async def work(collection: Collection) -> None:
            nonlocal deleted
            counts = []
            for place in filter(None, (collection.place, collection.next_place)):
                counts.append(await self._store.count(place, only))
                await self._store.delete_where(place, only, erase=True)
            # What is in both places while the collection moves are the same faces.
            deleted += max(counts)

        await self._registry.write(ticket, request.name, work, kind="faces", organisation=request.organisation)
        if not deleted:
            raise _nobody(request.name, request.id)
        ticket.meter.items = deleted
        return ForgetPersonResponse(id=request.id, deleted=deleted)

    async def _twice(self, ticket: Ticket, name: str, work: Callable[[], Awaitable[T]]) -> T:
        """Do work; once more when the collection went to another network meanwhile. Raises `Conflict` when it did again."""
        items, units = ticket.meter.items, ticket.meter.units
        try:
            return await work()
        except _Moved:
            ticket.meter.items, ticket.meter.units = items, units
        try:
            return await work()
        except _Moved:
            raise Conflict(f"the collection {name!r} was made anew meanwhile; try again") from None

    async def _pinned(self, ticket: Ticket, name: str, organisation: str | None, *, or_next: bool = False) -> Pinned:
        """Return a collection with its models, or, where these do not serve, `or_next` with those that it moves to.

        Raises `ContractMismatch` when others serve, `Unavailable` when none do.
        """
        collection = await self._registry.find(ticket, name, kind="faces", organisation=organisation)
        contract, coming = collection.contract, collection.next_contract
        assert isinstance(contract, FacesContract)
        try:
            return Pinned(collection, contract, *serving_faces(self._models, name, contract))
        except (ContractMismatch, Unavailable):
            if not or_next or not isinstance(coming, FacesContract):
                raise
            with suppress(ContractMismatch, Unavailable):
                return Pinned(collection, coming, *serving_faces(self._models, name, coming))
            raise

    async def _sight(
        self, ticket: Ticket, pinned: Pinned, data: bytes, looking: Looking, which: str | int
    ) -> list[Sighted]:
        """Return the faces of an image that are meant. Raises `NoFace`, `SeveralFaces`, `InvalidRequest`."""
        seen = await self._finder.look(ticket, pinned.detector, data, looking, EMBEDDING_SIDE)
        chosen = choose_faces(seen.faces, which)
        found, vectors = await self._faces.describe_and_embed(ticket, pinned.embedder, seen, chosen)
        numbers = [_number(seen, face) for face in chosen]
        return [Sighted(*parts) for parts in zip(numbers, found, vectors, strict=True)]

    async def _keep(
        self, ticket: Ticket, pinned: Pinned, request: EnrolRequest, image_sha256: str, face: Sighted, data: bytes
    ) -> tuple[EnrolledFace, bool]:
        """Store a face, or find it stored. Raises `Conflict` when it is another person's.

        While the collection moves it goes to the next place too, as the network there sees it.
        """
        first = True

        async def work(collection: Collection) -> tuple[Point, bool]:
            nonlocal first
            if collection.record.contract != pinned.collection.record.contract:
                raise _Moved
            contract = contract_digest(collection)
            name = face_id(collection.organisation, image_sha256, face.number, contract)
            there = next(iter(await self._store.get(collection.place, [name])), None)
            if there is not None and there.payload.get(PERSON_KEY) != request.person_id:
                raise _of_another(request, there)
            # Milliseconds: more digits than that do not all come back from the store as they went in.
            created_at = round(self._clock.now(), 3) if there is None else there.payload["created_at"]
            payload = payload_of(request.person_id, image_sha256, face.found, contract, created_at, request.metadata)
            point = Point(name, face.vector, payload)
            await self._store.upsert(collection.place, [point])
            if collection.next_place:
                await self._carrier.carry(ticket, collection, data, again=True)
            # Where the collection had to be looked at twice, the first time has made it.
            created, first = there is None or not first, False
            return point, created

        point, created = await self._registry.write(
            ticket, request.name, work, kind="faces", organisation=request.organisation
        )
        return view_face(point), created

    async def _nearest(
        self, ticket: Ticket, request: IdentifyRequest, contract: FacesContract, vector: Vector
    ) -> list[Hit]:
        """Return the nearest face of each of the nearest persons, nearest first."""

        async def work(collection: Collection) -> list[Hit]:
            place = _place(collection, contract)
            count = request.limit * HITS_A_PERSON
            while True:
                hits = await self._store.search(place, vector, limit=count, only=request.filter)
                persons: dict[str, Hit] = {}
                for hit in hits:
                    persons.setdefault(hit.payload[PERSON_KEY], hit)
                if len(persons) >= request.limit or len(hits) < count or count >= MAX_HITS:
                    return list(persons.values())[: request.limit]
                count = min(MAX_HITS, 4 * count)

        return await self._registry.read(ticket, request.name, work, kind="faces", organisation=request.organisation)


def _place(collection: Collection, contract: FacesContract) -> str:
    """Return where a collection has vectors of a contract. Raises `_Moved` when it has none any more."""
    if collection.contract == contract:
        return collection.place
    if collection.next_contract == contract:
        return collection.next_place
    raise _Moved


def _number(seen: Seen, face: Face) -> int:
    """Return which face of an image it is, from the left."""
    return next(number for number, one in enumerate(seen.faces) if one is face)


def _of_another(request: EnrolRequest, there: Point) -> Conflict:
    return Conflict(
        f"this face is enrolled in {request.name!r} as {there.payload.get(PERSON_KEY)!r} already (face {there.id}); "
        "forget it there first",
        param="person_id",
    )


def _nobody(name: str, person: str) -> NotFound:
    return NotFound(f"there is no face of {person!r} in the collection {name!r}", param="id")


def _name(ticket: Ticket, pinned: Pinned) -> None:
    ticket.meter.note_model(pinned.detector)
    ticket.meter.note_model(pinned.embedder)
