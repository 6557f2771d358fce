"""Images that the detector opens itself: each fails alone."""

from __future__ import annotations

import numpy as np
import pytest

from phalanx.engines.face.detector import Looks, Unopened, prepare
from phalanx.engines.face.stand_in import StandInDetector
from phalanx.engines.image.decode import decode
from phalanx.engines.image.header import read_header
from phalanx.errors import UnreadableInput
from phalanx.services.faces.finding import QUICK_PIXELS, is_quick
from pictures import noise, saved


def opened(data: bytes) -> Looks:
    return prepare(decode(data, max_pixels=10**6).pixels)


def without_tables(jpeg: bytes) -> bytes:
    """A JPEG whose header reads well and whose pixels cannot be decoded: its quantisation tables are gone."""
    place = jpeg.index(b"\xff\xdb")
    return jpeg[:place] + jpeg[place + 2 + int.from_bytes(jpeg[place + 2 : place + 4], "big") :]


def test_an_image_that_cannot_be_read_says_so_and_the_others_are_looked_at() -> None:
    good = saved(noise(120, 80), "JPEG")
    bad = without_tables(without_tables(good))
    assert read_header(bad, max_pixels=10**6).width == 120
    items = [Unopened(lambda data=data: opened(data)) for data in (good, bad, good)]  # type: ignore[misc]
    results = StandInDetector().run([*items, opened(good)])
    assert [len(faces) for faces in results] == [1, 0, 1, 1]
    assert [type(item.error) for item in items] == [type(None), UnreadableInput, type(None)]


def test_what_is_no_fault_of_the_image_is_the_engines() -> None:
    def fail() -> Looks:
        raise MemoryError

    with pytest.raises(MemoryError):
        StandInDetector().run([Unopened(fail)])


def test_quick_are_small_jpegs_of_one_scan() -> None:
    def quick(data: bytes) -> bool:
        return is_quick(read_header(data, max_pixels=10**8))

    picture = noise(200, 200)
    assert quick(saved(picture, "JPEG"))
    assert not quick(saved(picture, "JPEG", progressive=True))
    assert not quick(saved(picture, "PNG"))
    assert not quick(saved(np.zeros((QUICK_PIXELS // 1024 + 1, 1024, 3), np.uint8), "JPEG"))
