"""Faces on their way to another network. A gallery keeps only the digests of its images, so these have to be brought.

For each image that is brought, the faces that were enrolled from it are found again at their old positions, cut out and
embedded as the next contract says. Each goes to the next place under the id that enrolling the image there would give it,
with what else was known of it, and with the id of the face that it comes from. The old place is the truth: a face that has
been deleted there by the time that its copy arrives is deleted from the next place too.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from typing import Final, NamedTuple

import numpy as np

from phalanx.contract.collections import Condition, FacesContract, Filter, MatchOf
from phalanx.contract.faces import MIN_CONFIDENCE, FoundFace, Landmarks
from phalanx.errors import ModelNotFound, Unavailable
from phalanx.ports import Point, VectorStore
from phalanx.services.collections.contracts import faces_contract, mismatch, require_same
from phalanx.services.collections.gallery_shapes import PERSON_KEY, face_id, payload_of
from phalanx.services.collections.point_shapes import SOURCE_KEY
from phalanx.services.collections.registry import Collection
from phalanx.services.faces.finding import FaceFinder
from phalanx.services.faces.service import EMBEDDING_SIDE, FaceService
from phalanx.services.serving.face_models import FaceModels, ServedDetector, ServedEmbedder
from phalanx.services.ticket import Ticket

PAGE = 1000
NEAR: Final = 0.5
"""How far apart, in widths of the enrolled box, the middles of eyes and nose may be of one face that two detectors found."""


class Look(NamedTuple):
    """A way to look for faces; as in a request."""

    min_confidence: float
    detector: str


LOOKS: Final = (Look(0.5, "auto"), Look(MIN_CONFIDENCE, "auto"), Look(MIN_CONFIDENCE, "tiled"))
"""As enrolling looks by default, then for what is less sure or smaller: only faces whose places are known are taken."""


class Carried(NamedTuple):
    """Of how many enrolled faces an image was, and how many of these are in the next place now."""

    faces: int
    carried: int


class FaceCarrier:
    """Brings faces to the next place of their collection, given their images."""

    def __init__(self, store: VectorStore, models: FaceModels, finder: FaceFinder, faces: FaceService) -> None:
        self._store = store
        self._models = models
        self._finder = finder
        self._faces = faces

    async def carry(self, ticket: Ticket, collection: Collection, data: bytes, *, again: bool = False) -> Carried:
        """Bring the faces that were enrolled from an image; those that are there already only if `again`.

        Raises `ContractMismatch` when the next models do not serve, and what intake, models and store raise.
        """
        digest = hashlib.sha256(data).hexdigest()
        there = [point async for point in self.points(collection.place, only_image(digest))]
        arrived = {
            point.payload.get(SOURCE_KEY) async for point in self.points(collection.next_place, only_image(digest))
        }
        wanted = there if again else [point for point in there if point.id not in arrived]
        if wanted:
            arrived |= await self._bring(ticket, collection, data, digest, wanted)
        return Carried(len(there), sum(point.id in arrived for point in there))

    async def points(self, place: str, only: Filter | None = None) -> AsyncIterator[Point]:
        """Yield the points of a place, without their vectors."""
        after = None
        while True:
            page = await self._store.scroll(place, after=after, limit=PAGE, only=only)
            for point in page:
                yield point
            if len(page) < PAGE:
                return
            after = page[-1].id

    async def _bring(
        self, ticket: Ticket, collection: Collection, data: bytes, digest: str, wanted: Sequence[Point]
    ) -> set[str]:
        """Return the ids, in the old place, of the faces that were found again and brought."""
        coming = collection.next_contract
        assert isinstance(coming, FacesContract)
        embedder, detector = serving_faces(self._models, collection.name, coming)
        contract = digest_of(collection.record.next_contract)
        left, brought = list(wanted), []
        for look in LOOKS:
            if look.detector not in detector.detector.modes:
                continue
            seen = await self._finder.look(ticket, detector, data, look, EMBEDDING_SIDE)
            found = await self._faces.describe(ticket, seen, seen.faces)
            pairs = paired(left, found)
            if pairs:
                chosen = [seen.faces[number] for _, number in pairs]
                described, vectors = await self._faces.describe_and_embed(ticket, embedder, seen, chosen)
                for (point, number), face, vector in zip(pairs, described, vectors, strict=True):
                    known = point.payload
                    payload = payload_of(
                        known[PERSON_KEY], digest, face, contract, known["created_at"], known["metadata"]
                    )
                    name = face_id(collection.organisation, digest, number, contract)
                    brought.append(Point(name, vector, {**payload, SOURCE_KEY: point.id}))
            met = {point.id for point, _ in pairs}
            left = [point for point in left if point.id not in met]
            if not left:
                break
        if brought:
            await self._store.upsert(collection.next_place, brought)
            # Who is forgotten while this went on is gone from both places by now, or here.
            there = {point.id for point in await self._store.get(collection.place, [point.id for point in wanted])}
            gone = [point.id for point in brought if point.payload[SOURCE_KEY] not in there]
            if gone:
                await self._store.delete(collection.next_place, gone)
        return {point.payload[SOURCE_KEY] for point in brought}


def serving_faces(models: FaceModels, name: str, pinned: FacesContract) -> tuple[ServedEmbedder, ServedDetector]:
    """Return the models that a collection of faces is pinned to.

    Raises `ContractMismatch` when they do not serve, `Unavailable` while they are loading.
    """
    try:
        embedder = models.embedders.exact(pinned.model, pinned.version)
        detector = models.detectors.exact(pinned.detector, pinned.detector_version)
    except ModelNotFound:
        raise mismatch(name, pinned, None) from None
    except Unavailable:
        # Another version serves, or none does yet.
        embedder = models.embedder(pinned.model)
        detector = models.detectors.heaviest(pinned.detector)
    require_same(name, pinned, faces_contract(embedder, detector))
    return embedder, detector


def paired(points: Sequence[Point], found: Sequence[FoundFace]) -> list[tuple[Point, int]]:
    """Return which enrolled face is which that was found, by its number, the nearest first; each is one face at most."""
    near = sorted(
        (far, at, number)
        for at, point in enumerate(points)
        for number, face in enumerate(found)
        if (far := _apart(point, face)) <= NEAR
    )
    pairs: dict[int, int] = {}
    for _, at, number in near:
        if at not in pairs and number not in pairs.values():
            pairs[at] = number
    return [(points[at], number) for at, number in pairs.items()]


def only_image(digest: str) -> Filter:
    """Return the filter that lets the faces of one image through."""
    return Filter(must=[Condition(key="image_sha256", match=MatchOf(value=digest))])


def digest_of(contract: str) -> str:
    """Return 32 hex digits of a contract, as a record keeps it."""
    return hashlib.blake2b(contract.encode(), digest_size=16).hexdigest()


def _apart(point: Point, face: FoundFace) -> float:
    """Return how far apart two faces are: boxes differ between detectors, eyes and noses do not."""
    known = point.payload["landmarks"]
    names = ("left_eye", "right_eye", "nose")
    before = np.mean([known[name] for name in names], axis=0)
    now = np.mean([_landmark(face.landmarks, name) for name in names], axis=0)
    return float(np.linalg.norm(before - now)) / max(float(point.payload["bbox"]["width"]), 1.0)


def _landmark(landmarks: Landmarks, name: str) -> tuple[float, float]:
    place: tuple[float, float] = getattr(landmarks, name)
    return place
