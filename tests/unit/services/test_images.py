"""Intake: every form of an image, the bounded threads, deadlines."""

from __future__ import annotations

import asyncio
import base64
import math
import threading
import time
from typing import Any

import numpy as np
import pytest

from phalanx.contract.images import Align, Describing, ProcessRequest, Step
from phalanx.engines.face.facts import Box, Face
from phalanx.engines.image.header import Header
from phalanx.errors import DeadlineExceeded, InvalidRequest, NoFace, Overloaded, PhalanxError, TooLarge, UnreadableInput
from phalanx.services.images import AT_ONCE, INLINE_BYTES, MAX_WAITING, ImageIntake, ImageService, from_text
from phalanx.services.ticket import Meter
from phalanx.stores.memory.clock import SystemClock
from pictures import noise, saved

PNG = saved(noise(), "PNG")
HEADER = Header("png", 64, 48)


class Web:
    """A fetcher that says what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, float | None]] = []

    async def fetch(self, text: str, *, within_s: float | None = None) -> bytes:
        self.asked.append((text, within_s))
        return PNG


class Admitted:
    """As much of a ticket as intake looks at."""

    def __init__(self, deadline: float = math.inf) -> None:
        self.deadline = deadline
        self.meter = Meter()

    def report(self, fraction: float, stage: str = "") -> None:
        """Nobody follows it."""


def intake(web: Web | None = None, **options: Any) -> ImageIntake:
    return ImageIntake(web or Web(), SystemClock(), **{"max_bytes": 100_000, "max_pixels": 10_000, **options})


def ticket(seconds: float = math.inf) -> Any:
    return Admitted(time.monotonic() + seconds)


async def nowhere(ticket: Any, pixels: Any) -> Face:
    """Where faces are sought, there is none."""
    raise NoFace


def service() -> ImageService:
    return ImageService(intake(), nowhere)


PACKED = base64.b64encode(PNG).decode()


@pytest.mark.parametrize(
    "image",
    [
        PNG, PACKED, f"data:image/png;base64,{PACKED}", f"DATA:image/gif;charset=x;Base64,{PACKED}",
        "\r\n".join(PACKED[i : i + 76] for i in range(0, len(PACKED), 76)), "https://images.example/a.png", "HTTP://h/a",
    ],
    ids=["bytes", "base64", "data URL", "data URL in capitals", "base64 in lines", "URL", "URL in capitals"],
)  # fmt: skip
def test_every_form_is_the_same_image(image: str | bytes) -> None:
    """What a data URL claims to hold is not asked."""
    assert asyncio.run(intake().read(ticket(), image)) == PNG


@pytest.mark.parametrize(
    ("image", "error"),
    [
        (None, InvalidRequest), (7, InvalidRequest), ([PACKED], InvalidRequest), ({"a": 1}, InvalidRequest),
        ("", UnreadableInput), ("A", UnreadableInput), ("AAAA=A", UnreadableInput), ("AA*A", UnreadableInput), ("\0\0\0\0", UnreadableInput),
        ("data:image/png;base64", InvalidRequest), ("data:,AAAA", InvalidRequest), ("data:", InvalidRequest),
        ("ftp://h/a", InvalidRequest), ("javascript://x", InvalidRequest), ("\ud800", UnreadableInput), (b"", UnreadableInput),
    ],
)  # fmt: skip
def test_what_is_no_form_is_refused(image: Any, error: type[PhalanxError]) -> None:
    """With the code of its kind."""
    with pytest.raises(error):
        asyncio.run(service().process(ticket(), ProcessRequest(image=image)))


def test_base64_is_strict() -> None:
    """A stray sign is not skipped: it would be read as another file than was sent."""
    assert from_text("QUJD") == b"ABC"
    assert from_text("QU JD\n") == b"ABC"
    for text in ("QUJ", "QU-_", "Q=UJ", "QUJDQ"):
        with pytest.raises(UnreadableInput):
            from_text(text)


@pytest.mark.parametrize("image", [bytes(11), base64.b64encode(bytes(11)).decode()])
def test_bytes_are_bounded(image: Any) -> None:
    """The file's, not its wrapping's."""
    with pytest.raises(TooLarge, match="11 bytes, 10 are allowed"):
        asyncio.run(intake(max_bytes=10).read(ticket(), image))


def test_a_fetch_has_what_is_left_of_the_call() -> None:
    """Or no bound of its own where the call has none."""
    web = Web()
    asyncio.run(intake(web).read(ticket(2.0), "http://h/a"))
    asyncio.run(intake(web).read(ticket(), "http://h/a"))
    asyncio.run(intake(web).read(ticket(-1), "http://h/a"))
    assert web.asked[0][1] == pytest.approx(2, abs=0.2)
    assert [within for _, within in web.asked[1:]] == [None, 0.0]


def test_two_are_worked_on_at_once_and_a_few_dozen_wait() -> None:
    """One more is refused, and there is room again when those are done."""

    async def scenario() -> None:
        one, go, started, running = intake(), threading.Event(), threading.Semaphore(0), []

        def work() -> int:
            running.append(threading.current_thread().name)
            started.release()
            go.wait(30)
            return len(running)

        begun = ticket()
        tasks = [asyncio.create_task(one.open(begun, HEADER, work))]
        tasks += [asyncio.create_task(one.open(ticket(), HEADER, work)) for _ in range(AT_ONCE + MAX_WAITING - 1)]
        for _ in range(AT_ONCE):
            assert await asyncio.to_thread(started.acquire, timeout=30)
        assert len(running) == AT_ONCE
        with pytest.raises(Overloaded):
            await one.open(ticket(), HEADER, work)
        # A call of several images is not refused in its middle.
        tasks.append(asyncio.create_task(one.open(begun, HEADER, work)))
        await asyncio.sleep(0)
        go.set()
        await asyncio.gather(*tasks)
        assert await one.open(ticket(), HEADER, lambda: "room") == "room"
        one.close()

    asyncio.run(scenario())


def test_what_the_deadline_overtakes_is_never_begun() -> None:
    """The caller hears of it at once, and a place in the queue is free again."""

    async def scenario() -> None:
        one, go, begun = intake(), threading.Event(), []
        busy = [asyncio.create_task(one.open(ticket(), HEADER, lambda: go.wait(30))) for _ in range(AT_ONCE)]
        await asyncio.sleep(0)
        with pytest.raises(DeadlineExceeded):
            await one.open(ticket(0.05), HEADER, lambda: begun.append(1))
        go.set()
        await asyncio.gather(*busy)
        await one.open(ticket(), HEADER, lambda: None)
        assert begun == []
        one.close()

    asyncio.run(scenario())


def test_errors_of_the_work_come_through() -> None:
    """As they are."""
    with pytest.raises(TooLarge, match="pixels"):
        asyncio.run(intake(max_pixels=100).header(PNG))


def test_a_burst_of_large_images_is_refused_before_it_is_read() -> None:
    """What needs no thread for pixels, a known image, goes on; a progressive JPEG costs what its scans do."""

    async def scenario() -> None:
        one, go = intake(max_bytes=10**6, max_pixels=10**9), threading.Event()
        large, photo = bytes(INLINE_BYTES + 1), Header("jpeg", 4000, 3000)
        assert await one.read(ticket(5), large) == large
        begun = ticket(5)
        tasks = [asyncio.create_task(one.open(begun, photo, lambda: go.wait(30)))]
        tasks += [asyncio.create_task(one.open(ticket(5), photo, lambda: go.wait(30))) for _ in range(6)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as refused:
            await one.open(ticket(5), photo._replace(scans=10), lambda: None)
        assert (refused.value.retry_after_s or 0) > 1
        tasks += [asyncio.create_task(one.open(ticket(), photo, lambda: go.wait(30))) for _ in range(10)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await one.read(ticket(5), large)
        assert await one.read(begun, large) == large
        assert await one.read(ticket(5), PNG) == PNG
        go.set()
        assert all(await asyncio.gather(*tasks))
        one.close()

    asyncio.run(scenario())


def test_what_was_processed_is_metered() -> None:
    """A unit an image that succeeded."""
    request = ProcessRequest(images=[PNG, b"rubbish", PACKED], operations=[Step(metadata=Describing())])
    one = ticket()
    answer = asyncio.run(service().process(one, request))
    assert answer.results is not None
    assert [result.error is None for result in answer.results] == [True, False, True]
    assert one.meter.units == 2


def test_a_deadline_ends_the_whole_call() -> None:
    """It is not an error of one image among others."""
    with pytest.raises(DeadlineExceeded):
        asyncio.run(service().process(ticket(-1), ProcessRequest(images=[PNG, PNG])))


ALIGN = [Step(align=Align(template="dlib", size=64))]


def test_a_face_is_sought_once_for_each_alignment_and_not_on_the_threads_of_pixels() -> None:
    """What is found goes into the chip."""
    sought: list[str] = []

    async def find(ticket: Any, pixels: Any) -> Face:
        sought.append(threading.current_thread().name)
        marks = np.array([[20, 20], [40, 20], [30, 30], [30, 40], [10, 25], [50, 25]], np.float32)
        return Face(Box(10, 10, 40, 40), marks, 0.9)

    one = ticket()
    answer = asyncio.run(ImageService(intake(), find).process(one, ProcessRequest(image=PNG, operations=ALIGN * 2)))
    assert (answer.width, answer.height, one.meter.units) == (64, 64, 1)
    assert sought == ["MainThread"] * 2


def test_without_a_face_nothing_is_aligned() -> None:
    """The call fails, or the item of several."""
    with pytest.raises(NoFace):
        asyncio.run(service().process(ticket(), ProcessRequest(image=PNG, operations=ALIGN)))
    one = ticket()
    answer = asyncio.run(service().process(one, ProcessRequest(images=[PNG, PNG], operations=ALIGN)))
    assert [result.error and result.error.code for result in answer.results or []] == ["no_face"] * 2
    assert one.meter.units == 0
