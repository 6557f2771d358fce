"""Images: taking them in, in whatever form they were sent, and processing them."""

from __future__ import annotations

import asyncio
import binascii
from collections.abc import Awaitable, Callable, Generator
from functools import partial
from typing import Any, Protocol, TypeVar

import msgspec

from phalanx.contract.images import ProcessRequest, ProcessResponse, ProcessResult
from phalanx.contract.text import ItemError
from phalanx.engines.face.facts import Face, Keypoints
from phalanx.engines.image.decode import Pixels
from phalanx.engines.image.header import Header, read_header
from phalanx.engines.image.process import check_steps, process
from phalanx.errors import DeadlineExceeded, InvalidRequest, Overloaded, PhalanxError, TooLarge, UnreadableInput
from phalanx.ports import Clock
from phalanx.services.threads import BoundedThreads, seconds_left
from phalanx.services.ticket import Ticket

T = TypeVar("T")

FindFace = Callable[[Ticket, Pixels], Awaitable[Face]]
"""Finds the face that `align` means; see `services.faces.finding.FaceFinder.largest`."""

AT_ONCE = 2
MAX_WAITING = 64

INLINE_BYTES = 256 * 1024
"""Up to this size the event loop reads a file's header and digests it itself: 0.2 ms."""

RATE = 40_000_000
"""Pixels a second that are supposed to be decoded, all told, until it was measured: between what 2 cores do of progressive JPEG and
of plain."""


class Fetches(Protocol):
    """What brings an image from a URL; see `upstreams.fetch.Fetcher`."""

    async def fetch(self, text: str, *, within_s: float | None = None) -> bytes:
        """Return the file."""
        ...


class ImageIntake:
    """Takes images in for every operation that has one: bytes, base64, a data URL or a URL.

    Work on pixels runs two at a time in threads, since OpenCV lets go of the interpreter; a few dozen more may wait. A file may
    have `max_bytes`, its image `max_pixels`.
    """

    def __init__(self, fetcher: Fetches, clock: Clock, *, max_bytes: int, max_pixels: int) -> None:
        self._fetcher = fetcher
        self._clock = clock
        self._max_bytes = max_bytes
        self.max_pixels = max_pixels
        self._threads = BoundedThreads("images", clock, at_once=AT_ONCE, max_waiting=MAX_WAITING, rate=RATE)

    async def read(self, ticket: Ticket, image: Any) -> bytes:
        """Return the file of an image as it was sent.

        Raises `InvalidRequest` for what is no image in any form, `UnreadableInput` for base64 that is none, `TooLarge`,
        and what fetching raises; `Overloaded` for a large one that comes too late, before more is spent on it.
        """
        if isinstance(image, (str, bytes)) and len(image) > INLINE_BYTES and not ticket.meter.pixels:
            self._threads.require(ticket)
        if isinstance(image, str) and image[:8].lower().startswith(("http://", "https://")):
            return await self._fetcher.fetch(image, within_s=seconds_left(ticket, self._clock))
        if isinstance(image, str):
            return self._within_limit(from_text(image))
        if isinstance(image, bytes):
            return self._within_limit(image)
        raise InvalidRequest("an image is a string: base64, a data URL, or an http(s) URL", param="image")

    async def header(self, data: bytes) -> Header:
        """Return what a file says of itself. Raises what `read_header` raises."""
        return await self.scan(data, lambda data: read_header(data, max_pixels=self.max_pixels))

    async def scan(self, data: bytes, work: Callable[[bytes], T]) -> T:
        """Do work that reads a file once: here where the file is small, else in a thread that no pixels wait for."""
        if len(data) <= INLINE_BYTES:
            return work(data)
        with self._threads.coming():
            return await asyncio.to_thread(work, data)

    async def open(self, ticket: Ticket, header: Header, work: Callable[[], T]) -> T:
        """Do work in a thread that begins with decoding an image, the one of this header.

        Raises `Overloaded` when it would not be done in time, `DeadlineExceeded`, and what the work raises. Of several
        images of a call only the first is refused: later that would lose what was done.
        """
        cost = header.width * header.height * (1 + header.scans) // 2
        if not ticket.meter.pixels:
            self._threads.require(ticket, cost)
        ticket.meter.pixels += header.width * header.height
        return await self._threads.run(ticket, work, cost=cost)

    async def go_on(self, ticket: Ticket, work: Callable[[], T]) -> T:
        """Do work in a thread on an image that was decoded before: sooner than on others. Raises `DeadlineExceeded`, and what the work raises."""
        return await self._threads.run(ticket, work, is_begun=True)

    def close(self) -> None:
        """Drop what waits; what is under way ends by itself."""
        self._threads.close()

    def _within_limit(self, data: bytes) -> bytes:
        if len(data) > self._max_bytes:
            raise TooLarge(f"the image has {len(data)} bytes, {self._max_bytes} are allowed", param="image")
        return data


def from_text(text: str) -> bytes:
    """Return the bytes of base64, plain (RFC 4648 §4, line breaks allowed) or in a data URL (RFC 2397)."""
    head, comma, rest = text.partition(",") if text[:5].lower() == "data:" else ("", "", text)
    if head and not (comma and head.lower().endswith(";base64")):
        raise InvalidRequest("a data URL of an image has the form data:image/…;base64,…", param="image")
    if not head and "://" in text[:32]:
        raise InvalidRequest("an image's URL starts with http:// or https://", param="image")
    try:
        packed = rest.encode("ascii")
        if b"\n" in packed or b" " in packed or b"\r" in packed:
            packed = packed.translate(None, b" \r\n\t")
        return binascii.a2b_base64(packed, strict_mode=True)
    except (UnicodeEncodeError, binascii.Error):
        raise UnreadableInput("the image is neither valid base64 nor a URL", param="image") from None


class ImageService:
    """Images processed as asked. `find_face` is asked where a face is to be aligned, and nowhere else."""

    def __init__(self, intake: ImageIntake, find_face: FindFace) -> None:
        self._intake = intake
        self._find_face = find_face

    async def process(self, ticket: Ticket, request: ProcessRequest) -> ProcessResponse:
        """Run a request's operations over its image, or over each of its images.

        Raises `InvalidRequest` for operations that say nothing or two things, and for one image what intake,
        processing and finding a face raise; of several each has its own error.
        """
        check_steps(request.operations)
        if (request.image is None) == (request.images is None):
            raise InvalidRequest("send either image or images", param="image")
        if request.images is None:
            result = await self._one(ticket, request, request.image)
            return ProcessResponse(**msgspec.structs.asdict(result))
        # One after another: a request of many shares the two threads with the others.
        results = []
        for image in request.images:
            results.append(await self._item(ticket, request, image))
            ticket.report(len(results) / len(request.images))
        return ProcessResponse(results=results)

    async def _item(self, ticket: Ticket, request: ProcessRequest, image: Any) -> ProcessResult:
        try:
            return await self._one(ticket, request, image)
        except (DeadlineExceeded, Overloaded):
            raise
        except PhalanxError as error:
            return ProcessResult(error=ItemError(code=error.code, detail=error.detail))

    async def _one(self, ticket: Ticket, request: ProcessRequest, image: Any) -> ProcessResult:
        data = await self._intake.read(ticket, image)
        ticket.meter.items += 1
        header = await self._intake.header(data)
        work = process(
            data,
            request.operations,
            max_pixels=self._intake.max_pixels,
            return_image=request.return_image,
            header=header,
        )
        result = await self._intake.open(ticket, header, partial(_go_on, work, None))
        while not isinstance(result, ProcessResult):
            face = await self._find_face(ticket, result)
            result = await self._intake.go_on(ticket, partial(_go_on, work, face.keypoints))
        ticket.meter.units += 1
        return result


def _go_on(work: Generator[Pixels, Keypoints, ProcessResult], found: Keypoints | None) -> Pixels | ProcessResult:
    """Return the picture in which a face is sought next, or, at the end, the result."""
    try:
        return next(work) if found is None else work.send(found)
    except StopIteration as end:
        result: ProcessResult = end.value
        return result
