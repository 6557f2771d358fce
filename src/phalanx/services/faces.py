"""Faces: detection, embedding, comparison."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from phalanx.contract.faces import (
    CompareFacesRequest,
    CompareFacesResponse,
    Detector,
    DetectRequest,
    DetectResponse,
    DetectResult,
    EmbeddedFace,
    EmbedFacesRequest,
    EmbedFacesResponse,
    EmbedFacesResult,
    FoundFace,
)
from phalanx.contract.text import ItemError
from phalanx.contract.vector import Vector
from phalanx.engines.face.detector import Looks, prepare
from phalanx.engines.face.embedder import PreparedFace
from phalanx.engines.face.facts import Face
from phalanx.engines.face.framing import scaled_chip
from phalanx.engines.image.decode import Decoded, decode
from phalanx.engines.image.quality import measure_quality
from phalanx.engines.runner import Runner
from phalanx.errors import DeadlineExceeded, InvalidRequest, NoFace, Overloaded, PhalanxError
from phalanx.ports import Submission
from phalanx.services.face_models import FaceModels, ServedDetector, ServedEmbedder
from phalanx.services.face_shapes import MOUTH_CORNERS, describe
from phalanx.services.images import ImageIntake
from phalanx.services.ticket import Ticket

DETECTION_SIDE = 1024
"""Pixels that the longer side of a JPEG keeps for detection alone: the smallest face that is found has 50 of them."""

EMBEDDING_SIDE = 2048
"""The same where faces are cut out: the smallest face then has 100 pixels, which a chip of 150 enlarges by little."""

AT_ONCE = 4
"""Images of one request that are under way at once."""

P = TypeVar("P", bound=Any)
R = TypeVar("R")
T = TypeVar("T")


class Looking(Protocol):
    """What a request says of detection."""

    @property
    def min_confidence(self) -> float:
        """The least score of a face."""
        ...

    @property
    def detector(self) -> Detector:
        """Which networks look."""
        ...


class Seen(NamedTuple):
    """An image with its faces, from left to right, in pixels of the image as decoded."""

    image: Decoded
    faces: list[Face]

    def describe(self, faces: Sequence[Face]) -> list[FoundFace]:
        """Return faces as the answer shows them, in pixels of the original."""
        return [describe(self.image.pixels, face, self.image.scale) for face in faces]


class FaceService:
    """The face operations, over one detector and one embedder."""

    def __init__(self, models: FaceModels, intake: ImageIntake) -> None:
        self._models = models
        self._intake = intake

    async def detect(self, ticket: Ticket, request: DetectRequest) -> DetectResponse:
        """Find the faces of one image, or of several, each of which then has its own error.

        Raises `InvalidRequest` unless one of image and images is sent, `Unavailable`, and for one image what intake
        raises. An image without a face is no error.
        """
        served = self._models.detector()

        async def one(image: Any) -> DetectResult:
            seen = await self._look(ticket, served, image, request, DETECTION_SIDE)
            faces = _largest(seen.faces, request.max_faces)
            found = await self._intake.run(ticket, lambda: seen.describe(faces)) if faces else []
            ticket.meter.units += 1
            width, height = seen.image.header.upright_size
            return DetectResult(faces=found, width=width, height=height)

        results = await _each(request.image, request.images, one, lambda error: DetectResult(error=error))
        _name(ticket, served)
        rest: dict[str, Any] = {"results": results} if request.images is not None else _fields(results[0])
        return DetectResponse(model=served.name, landmarks_estimated=list(MOUTH_CORNERS), **rest)

    async def embed(self, ticket: Ticket, request: EmbedFacesRequest) -> EmbedFacesResponse:
        """Return the vectors of one image's faces, or of several images', each of which then has its own error.

        Raises `NoFace` where there is none, `InvalidRequest` for a face beyond the last one, `ModelNotFound`,
        `Unavailable`, and what intake raises.
        """
        served = self._models.embedder(request.model)
        detector = None if request.aligned else self._models.detector()

        async def one(image: Any) -> EmbedFacesResult:
            if detector is None:
                faces = [await self._embed_aligned(ticket, served, image)]
            else:
                seen = await self._look(ticket, detector, image, request, EMBEDDING_SIDE)
                faces = await self._embed_faces(ticket, served, seen, _choose(seen.faces, request.face))
            ticket.meter.units += 1
            return EmbedFacesResult(faces=faces)

        results = await _each(request.image, request.images, one, lambda error: EmbedFacesResult(error=error))
        _name(ticket, served)
        spec = served.embedder.spec
        rest: dict[str, Any] = {"results": results}
        if request.images is None:
            faces = results[0].faces or []
            rest = {"faces": faces} if request.face == "all" else _fields(faces[0], but="landmarks")
        return EmbedFacesResponse(
            model=served.name, metric=spec.metric, threshold=spec.threshold, threshold_meaning=spec.meaning,
            dimensions=spec.dimensions, **rest,
        )  # fmt: skip

    async def compare(self, ticket: Ticket, request: CompareFacesRequest) -> CompareFacesResponse:
        """Compare the largest faces of two images. Raises what `embed` raises for one image."""
        served, detector = self._models.embedder(request.model), self._models.detector()

        async def one(image: Any) -> tuple[Vector, FoundFace]:
            seen = await self._look(ticket, detector, image, request, EMBEDDING_SIDE)
            (face,) = _choose(seen.faces, "largest")
            (found,), (vector,) = await self._describe_and_embed(ticket, served, seen, [face])
            ticket.meter.units += 1
            return vector, found

        # Both are waited for, so that nothing is under way any more when the call ends.
        results = await asyncio.gather(*map(one, request.images), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        (first, one_face), (second, other_face) = [pair for pair in results if not isinstance(pair, BaseException)]
        _name(ticket, served)
        spec = served.embedder.spec
        value = served.embedder.compare(first, second)
        is_cosine = spec.metric == "cosine"
        return CompareFacesResponse(
            distance=1 - value if is_cosine else value, threshold=1 - spec.threshold if is_cosine else spec.threshold,
            threshold_meaning=spec.meaning, metric=spec.metric, same=served.embedder.is_same(value),
            faces=[one_face, other_face], model=served.name,
        )  # fmt: skip

    async def _look(self, ticket: Ticket, served: ServedDetector, image: Any, request: Looking, max_side: int) -> Seen:
        """Take an image in and find its faces."""
        data = await self._intake.read(ticket, image)
        ticket.meter.items += 1

        def ready() -> tuple[Decoded, Looks]:
            decoded = decode(data, max_pixels=self._intake.max_pixels, max_side=max_side)
            return decoded, prepare(decoded.pixels, mode=request.detector, min_score=request.min_confidence)

        decoded, looks = await self._intake.run(ticket, ready)
        (faces,) = await _submit(ticket, served.runner, [looks])
        return Seen(decoded, faces)

    async def _embed_faces(
        self, ticket: Ticket, served: ServedEmbedder, seen: Seen, faces: Sequence[Face]
    ) -> list[EmbeddedFace]:
        found, vectors = await self._describe_and_embed(ticket, served, seen, faces)
        return [
            EmbeddedFace(
                embedding=vector, quality=face.quality, confidence=face.confidence, bbox=face.bbox,
                landmarks=face.landmarks,
            )
            for face, vector in zip(found, vectors, strict=True)
        ]  # fmt: skip

    async def _describe_and_embed(
        self, ticket: Ticket, served: ServedEmbedder, seen: Seen, faces: Sequence[Face]
    ) -> tuple[list[FoundFace], list[Vector]]:
        embedder = served.embedder

        def ready() -> tuple[list[FoundFace], list[PreparedFace]]:
            chips = [embedder.align(seen.image.pixels, face.keypoints).image for face in faces]
            return seen.describe(faces), [embedder.prepare(chip) for chip in chips]

        found, prepared = await self._intake.run(ticket, ready)
        return found, await _submit(ticket, served.runner, prepared)

    async def _embed_aligned(self, ticket: Ticket, served: ServedEmbedder, image: Any) -> EmbeddedFace:
        """Embed an image that is a face already."""
        data = await self._intake.read(ticket, image)
        ticket.meter.items += 1
        side = served.embedder.spec.input_size

        def ready() -> tuple[float, PreparedFace]:
            pixels = decode(data, max_pixels=self._intake.max_pixels, max_side=2 * side).pixels
            quality = measure_quality(pixels, full_side=side).overall
            return quality, served.embedder.prepare(scaled_chip(pixels, side))

        quality, prepared = await self._intake.run(ticket, ready)
        (vector,) = await _submit(ticket, served.runner, [prepared])
        return EmbeddedFace(embedding=vector, quality=quality)


async def _submit(ticket: Ticket, runner: Runner[P, R], items: Sequence[P]) -> list[R]:
    """Compute items and meter the time; the first that fails fails all."""
    submissions = [Submission(item) for item in items]
    results = await runner.submit(submissions, tenant=ticket.tenant, deadline=ticket.deadline)
    values = []
    queue_s = engine_s = 0.0
    for result in results:
        if isinstance(result, PhalanxError):
            raise result
        values.append(result.value)
        queue_s, engine_s = max(queue_s, result.queue_s), max(engine_s, result.engine_s)
    ticket.meter.queue_s += queue_s
    ticket.meter.engine_s += engine_s
    return values


async def _each(
    image: Any, images: Sequence[Any] | None, one: Callable[[Any], Awaitable[T]], failed: Callable[[ItemError], T]
) -> list[T]:
    """Work on the image, whose error is the call's, or on all images, a few at once, each with an error of its own."""
    if (image is None) == (images is None):
        raise InvalidRequest("send either image or images", param="image")
    if images is None:
        return [await one(image)]
    turn = asyncio.Semaphore(AT_ONCE)

    async def item(sent: Any) -> T:
        async with turn:
            try:
                return await one(sent)
            except (DeadlineExceeded, Overloaded):
                raise
            except PhalanxError as error:
                return failed(ItemError(code=error.code, detail=error.detail))

    results = await asyncio.gather(*map(item, images), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


def _choose(faces: Sequence[Face], which: str | int) -> Sequence[Face]:
    """Return the faces that were asked for. Raises `NoFace`, `InvalidRequest`."""
    if not faces:
        raise NoFace(
            "no face was found in the image; min_confidence and detector say what counts as one", param="image"
        )
    if which == "all":
        return faces
    if isinstance(which, int):
        if which >= len(faces):
            raise InvalidRequest(f"face is {which}; the image has faces 0 to {len(faces) - 1}", param="face")
        return [faces[which]]
    return _largest(faces, 1)


def _largest(faces: Sequence[Face], count: int | None) -> list[Face]:
    """Return the largest faces in the order in which they came."""
    by_size = sorted(range(len(faces)), key=lambda index: -faces[index].box.width * faces[index].box.height)
    return [faces[index] for index in sorted(by_size[:count])]


def _name(ticket: Ticket, served: ServedDetector | ServedEmbedder) -> None:
    ticket.meter.model, ticket.meter.model_version = served.name, served.version


def _fields(struct: msgspec.Struct, *, but: str = "error") -> dict[str, Any]:
    return {name: getattr(struct, name) for name in struct.__struct_fields__ if name != but}
