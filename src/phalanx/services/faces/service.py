"""Faces: detection, embedding, comparison."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import msgspec

from phalanx.contract.faces import (
    CompareFacesRequest,
    CompareFacesResponse,
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
from phalanx.engines.face.embedder import PreparedFace
from phalanx.engines.face.facts import Face
from phalanx.engines.face.framing import scaled_chip
from phalanx.engines.image.decode import decode
from phalanx.engines.image.quality import measure_quality
from phalanx.errors import DeadlineExceeded, InvalidRequest, Overloaded, PhalanxError
from phalanx.services.faces.finding import FaceFinder, Looking, Seen, choose, largest, submit
from phalanx.services.images import ImageIntake
from phalanx.services.results import Results
from phalanx.services.serving.face_models import FaceModels, ServedDetector, ServedEmbedder
from phalanx.services.ticket import Ticket

DETECTION_SIDE = 1024
"""Pixels that the longer side of a JPEG keeps for detection alone: the smallest face that is found has 50 of them."""

EMBEDDING_SIDE = 2048
"""The same where faces are cut out: the smallest face then has 100 pixels, which a chip of 150 enlarges by little; and where
the detector looks at parts of the image, of which the smallest then has 227."""

AT_ONCE = 4
"""Images of one request that are under way at once."""

INLINE_FACES, INLINE_PIXELS = 2, 2**16
"""So many faces, of so many pixels together, the event loop describes itself: 0.1 ms each."""

T = TypeVar("T")


class FaceService:
    """The face operations, over one detector and one embedder."""

    def __init__(self, models: FaceModels, finder: FaceFinder, intake: ImageIntake, results: Results) -> None:
        self._models = models
        self._finder = finder
        self._intake = intake
        self._results = results

    async def detect(self, ticket: Ticket, request: DetectRequest) -> DetectResponse:
        """Find the faces of one image, or of several, each of which then has its own error.

        Raises `InvalidRequest` unless one of image and images is sent, `Unavailable`, and for one image what intake
        raises. An image without a face is no error.
        """
        served = self._models.detector(ticket.caller.subject, request.detector)

        async def one(image: Any) -> DetectResult:
            data, digest = await self.read(ticket, image)

            async def compute() -> DetectResult:
                seen = await self._finder.look(ticket, served, data, request, _detection_side(request))
                faces = largest(seen.faces, request.max_faces)
                found = await self.describe(ticket, seen, faces)
                width, height = seen.image.header.upright_size
                return DetectResult(faces=found, width=width, height=height)

            facts = ("detect", digest, *_looking(served, request), request.max_faces)
            result, cached = await self._remember(ticket, facts, DetectResult, compute)
            return msgspec.structs.replace(result, cached=cached)

        results = await each(ticket, request.image, request.images, one, lambda error: DetectResult(error=error))
        _name(ticket, served)
        rest: dict[str, Any] = {"results": results} if request.images is not None else _fields(results[0])
        return DetectResponse(model=served.name, landmarks_estimated=served.estimated, **rest)

    async def embed(self, ticket: Ticket, request: EmbedFacesRequest) -> EmbedFacesResponse:
        """Return the vectors of one image's faces, or of several images', each of which then has its own error.

        Raises `NoFace` where there is none, `InvalidRequest` for a face beyond the last one, `ModelNotFound`,
        `Unavailable`, and what intake raises.
        """
        served = self._models.embedder(request.model, ticket.caller.subject)
        detector = None if request.aligned else self._models.detector(ticket.caller.subject, request.detector)

        async def one(image: Any) -> EmbedFacesResult:
            data, digest = await self.read(ticket, image)

            async def compute() -> list[EmbeddedFace]:
                if detector is None:
                    return [await self._embed_aligned(ticket, served, data)]
                seen = await self._finder.look(ticket, detector, data, request, EMBEDDING_SIDE)
                return await self._embed_faces(ticket, served, seen, choose(seen.faces, request.face))

            looking = (*_looking(detector, request), request.face) if detector else ("aligned",)
            facts = ("embed", digest, served.name, served.embedder.spec.fingerprint, *looking)
            faces, cached = await self._remember(ticket, facts, list[EmbeddedFace], compute)
            return EmbedFacesResult(faces=faces, cached=cached)

        results = await each(ticket, request.image, request.images, one, lambda error: EmbedFacesResult(error=error))
        _name(ticket, served, detector)
        spec = served.embedder.spec
        rest: dict[str, Any] = {"results": results}
        if request.images is None:
            faces = results[0].faces or []
            rest = {"faces": faces} if request.face == "all" else _fields(faces[0], but="landmarks")
            rest["cached"] = results[0].cached
        return EmbedFacesResponse(
            model=served.name, metric=spec.metric, threshold=spec.threshold, threshold_meaning=spec.meaning,
            dimensions=spec.dimensions, landmarks_estimated=detector.estimated if detector else None, **rest,
        )  # fmt: skip

    async def compare(self, ticket: Ticket, request: CompareFacesRequest) -> CompareFacesResponse:
        """Compare the largest faces of two images. Raises what `embed` raises for one image."""
        served, detector = (
            self._models.embedder(request.model, ticket.caller.subject),
            self._models.detector(ticket.caller.subject, request.detector),
        )

        async def one(image: Any) -> tuple[Vector, FoundFace]:
            data, digest = await self.read(ticket, image)

            async def compute() -> tuple[Any, FoundFace]:
                seen = await self._finder.look(ticket, detector, data, request, EMBEDDING_SIDE)
                (face,) = choose(seen.faces, "largest")
                (found,), (vector,) = await self.describe_and_embed(ticket, served, seen, [face])
                return vector, found

            facts = ("compare", digest, served.name, served.embedder.spec.fingerprint, *_looking(detector, request))
            return (await self._remember(ticket, facts, tuple[Any, FoundFace], compute))[0]

        # Both are waited for, so that nothing is under way any more when the call ends.
        results = await asyncio.gather(*map(one, request.images), return_exceptions=True)
        for index, result in enumerate(results):
            if isinstance(result, PhalanxError) and result.param == "image":
                place, wait_s = f"images[{index}]", result.retry_after_s
                raise type(result)(f"{place}: {result.detail}", param=place, retry_after_s=wait_s, **result.data)
            if isinstance(result, BaseException):
                raise result
        (first, one_face), (second, other_face) = [pair for pair in results if not isinstance(pair, BaseException)]
        _name(ticket, served, detector)
        spec = served.embedder.spec
        value = served.embedder.compare(first, second)
        is_cosine = spec.metric == "cosine"
        return CompareFacesResponse(
            distance=1 - value if is_cosine else value, threshold=1 - spec.threshold if is_cosine else spec.threshold,
            threshold_meaning=spec.meaning, metric=spec.metric, same=served.embedder.is_same(value),
            faces=[one_face, other_face], model=served.name,
        )  # fmt: skip

    async def read(self, ticket: Ticket, image: Any) -> tuple[bytes, bytes]:
        """Take an image in; return the file, and the SHA-256 of all of it, by which results are kept."""
        data = await self._intake.read(ticket, image)
        ticket.meter.items += 1
        return data, await self._intake.scan(data, lambda data: hashlib.sha256(data).digest())

    async def _remember(
        self, ticket: Ticket, facts: Sequence[Any], kind: type[T], compute: Callable[[], Awaitable[T]]
    ) -> tuple[T, bool]:
        """Return what was computed of an image, now or before, and meter it."""
        result, cached = await self._results.get(ticket, facts, kind, compute)
        ticket.meter.units += 1
        ticket.meter.cached += cached
        return result, cached

    async def _embed_faces(
        self, ticket: Ticket, served: ServedEmbedder, seen: Seen, faces: Sequence[Face]
    ) -> list[EmbeddedFace]:
        found, vectors = await self.describe_and_embed(ticket, served, seen, faces)
        return [
            EmbeddedFace(
                embedding=vector, quality=face.quality, confidence=face.confidence, bbox=face.bbox,
                landmarks=face.landmarks,
            )
            for face, vector in zip(found, vectors, strict=True)
        ]  # fmt: skip

    async def describe_and_embed(
        self, ticket: Ticket, served: ServedEmbedder, seen: Seen, faces: Sequence[Face]
    ) -> tuple[list[FoundFace], list[Vector]]:
        """Return what faces of an image look like, and their vectors. Raises what intake and the runner raise."""
        embedder = served.embedder

        def ready() -> tuple[list[FoundFace], list[PreparedFace]]:
            chips = [embedder.align(seen.image.pixels, face.keypoints).image for face in faces]
            return seen.describe(faces), [embedder.prepare(chip) for chip in chips]

        found, prepared = await self._intake.go_on(ticket, ready)
        return found, await submit(ticket, served.runner, prepared)

    async def describe(self, ticket: Ticket, seen: Seen, faces: Sequence[Face]) -> list[FoundFace]:
        """Return what faces of an image look like, quality and all. Raises what intake raises."""
        if sum(face.box.width * face.box.height for face in faces) <= INLINE_PIXELS and len(faces) <= INLINE_FACES:
            return seen.describe(faces)
        return await self._intake.go_on(ticket, lambda: seen.describe(faces))

    async def align(
        self, ticket: Ticket, served: ServedEmbedder, seen: Seen, faces: Sequence[Face]
    ) -> list[PreparedFace]:
        """Cut faces out of an image as a network wants them. Raises what intake raises."""
        embedder = served.embedder

        def ready() -> list[PreparedFace]:
            chips = [embedder.align(seen.image.pixels, face.keypoints).image for face in faces]
            return [embedder.prepare(chip) for chip in chips]

        return await self._intake.go_on(ticket, ready)

    async def _embed_aligned(self, ticket: Ticket, served: ServedEmbedder, data: bytes) -> EmbeddedFace:
        """Embed an image that is a face already."""
        side = served.embedder.spec.input_size
        header = await self._intake.header(data)

        def ready() -> tuple[float, PreparedFace]:
            pixels = decode(data, max_pixels=self._intake.max_pixels, max_side=2 * side, header=header).pixels
            quality = measure_quality(pixels, full_side=side).overall
            return quality, served.embedder.prepare(scaled_chip(pixels, side))

        quality, prepared = await self._intake.open(ticket, header, ready)
        (vector,) = await submit(ticket, served.runner, [prepared])
        return EmbeddedFace(embedding=vector, quality=quality)


async def each(
    ticket: Ticket,
    image: Any,
    images: Sequence[Any] | None,
    one: Callable[[Any], Awaitable[T]],
    failed: Callable[[ItemError], T],
) -> list[T]:
    """Work on the image, whose error is the call's, or on all images, a few at once, each with an error of its own.

    Of several, the part that is done is reported.
    """
    if (image is None) == (images is None):
        raise InvalidRequest("send either image or images", param="image")
    if images is None:
        return [await one(image)]
    turn, done = asyncio.Semaphore(AT_ONCE), 0

    async def item(sent: Any) -> T:
        nonlocal done
        async with turn:
            try:
                result = await one(sent)
            except (DeadlineExceeded, Overloaded):
                raise
            except PhalanxError as error:
                result = failed(ItemError(code=error.code, detail=error.detail))
            done += 1
            ticket.report(done / len(images))
            return result

    results = await asyncio.gather(*map(item, images), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


def _detection_side(request: DetectRequest) -> int:
    """Return how much of a JPEG detection needs: in tiles, as much as faces that are cut out do."""
    return EMBEDDING_SIDE if request.detector == "tiled" else DETECTION_SIDE


def _looking(served: ServedDetector, request: Looking) -> tuple[Any, ...]:
    """Return what decides which faces are found in an image."""
    backend = served.detector.backend
    arithmetic = backend.name, backend.device, backend.precision
    return served.name, served.version, *arithmetic, request.detector, request.min_confidence


def _name(ticket: Ticket, served: ServedDetector | ServedEmbedder, detector: ServedDetector | None = None) -> None:
    if detector is not None:
        ticket.meter.note_model(detector)
    ticket.meter.note_model(served)


def _fields(struct: msgspec.Struct, *, but: str = "error") -> dict[str, Any]:
    return {name: getattr(struct, name) for name in struct.__struct_fields__ if name != but}
