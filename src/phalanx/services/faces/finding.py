"""Finding faces: what detection, embedding, comparing and aligning begin with."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from phalanx.contract.faces import Detector, FoundFace
from phalanx.engines.face.detector import Looks, Unopened
from phalanx.engines.face.facts import Face
from phalanx.engines.image.decode import Decoded, Pixels, decode
from phalanx.engines.image.header import Header
from phalanx.engines.runner import Runner
from phalanx.errors import InvalidRequest, NoFace, PhalanxError
from phalanx.ports import Submission
from phalanx.services.faces.shapes import describe
from phalanx.services.images import INLINE_BYTES, ImageIntake
from phalanx.services.serving.face_models import FaceModels, ServedDetector
from phalanx.services.ticket import Ticket

P = TypeVar("P", bound=Any)
R = TypeVar("R")


QUICK_PIXELS = 2**20
"""Up to this size, and INLINE_BYTES, a JPEG of one scan is decoded in 4 ms at most; one of 512 × 512 in 1."""


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


class FaceFinder:
    """Finds the faces of images with the detector of this worker."""

    def __init__(self, models: FaceModels, intake: ImageIntake) -> None:
        self._models = models
        self._intake = intake

    async def look(self, ticket: Ticket, served: ServedDetector, data: bytes, request: Looking, max_side: int) -> Seen:
        """Decode an image, a JPEG no larger than `max_side` needs, and find its faces.

        What is decoded in a millisecond or two is by the thread that then looks for faces; all else in one of the
        intake's, so that nobody's large image keeps the detector waiting.
        """
        opened: list[Decoded] = []
        header = await self._intake.header(data)

        def ready() -> Looks:
            opened.append(decode(data, max_pixels=self._intake.max_pixels, max_side=max_side, header=header))
            return served.prepare(opened[0].pixels, wanted=request.detector, min_score=request.min_confidence)

        if len(data) <= INLINE_BYTES and request.detector != "tiled" and is_quick(header):
            item = Unopened(ready)
            (faces,) = await submit(ticket, served.runner, [item])
            if item.error is not None:
                raise item.error
        else:
            looks = await self._intake.open(ticket, header, ready)
            (faces,) = await submit(ticket, served.runner, [looks])
        return Seen(opened[0], faces)

    async def largest(self, ticket: Ticket, pixels: Pixels) -> Face:
        """Return the largest face of pixels, in theirs. Raises `NoFace`, `Unavailable` and what the runner raises."""
        served = self._models.detector(ticket.caller.subject)
        looks = await self._intake.go_on(ticket, lambda: served.prepare(pixels))
        (faces,) = await submit(ticket, served.runner, [looks])
        (face,) = choose(faces, "largest")
        ticket.meter.note_model(served)
        return face


def is_quick(header: Header) -> bool:
    """Whether an image is decoded in about the time in which it is looked at."""
    return header.format == "jpeg" and header.scans == 1 and header.width * header.height <= QUICK_PIXELS


async def submit(ticket: Ticket, runner: Runner[P, R], items: Sequence[P]) -> list[R]:
    """Compute items and meter the time; the first that fails fails all."""
    submissions = [Submission(item) for item in items]
    queued_at = time.monotonic()
    try:
        results = await runner.submit(submissions, tenant=ticket.tenant, deadline=ticket.deadline)
    except PhalanxError:
        ticket.meter.queue_s += time.monotonic() - queued_at
        raise
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


def choose(faces: Sequence[Face], which: str | int) -> Sequence[Face]:
    """Return the faces that were asked for: the largest, all, or one by its number. Raises `NoFace`, `InvalidRequest`."""
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
    return largest(faces, 1)


def largest(faces: Sequence[Face], count: int | None) -> list[Face]:
    """Return the largest faces in the order in which they came."""
    by_size = sorted(range(len(faces)), key=lambda index: -faces[index].box.width * faces[index].box.height)
    return [faces[index] for index in sorted(by_size[:count])]
