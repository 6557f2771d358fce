"""Colour: what comes with a profile becomes sRGB, as LittleCMS makes it; what is broken changes nothing."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from phalanx.contract.images import Resize, Step
from phalanx.engines.image.colour import MAX_PROFILE_BYTES
from phalanx.engines.image.decode import decode
from phalanx.engines.image.process import process
from pictures import (
    SRGB_CURVE,
    chunk,
    icc,
    noise,
    parametric,
    png,
    quarters,
    rgb_profile,
    sampled,
    saved,
)  # fmt: skip

MAX_PIXELS = 1_000_000
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.7141))
ADOBE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
PROPHOTO = ((0.79767, 0.28804, 0), (0.13519, 0.71188, 0), (0.03135, 0.00009, 0.82491))

PROFILES = {
    "Display P3": rgb_profile(),
    "Adobe RGB": rgb_profile(ADOBE, sampled(563)),
    "ProPhoto": rgb_profile(PROPHOTO, sampled(461)),
    "light": rgb_profile(SRGB, sampled()),
    "a sampled curve": rgb_profile(curve=sampled(0, 100, 30_000, 65_535)),
    "a power": rgb_profile(SRGB, parametric(0, 1.8)),
    "kind 1": rgb_profile(curve=parametric(1, *SRGB_CURVE[:3])),
    "kind 2": rgb_profile(curve=parametric(2, 2.2, 0.95, 0.02, 0.03)),
    "kind 4": rgb_profile(curve=parametric(4, *SRGB_CURVE, 0, 0)),
}


def converted(data: bytes) -> Any:
    return decode(data, max_pixels=MAX_PIXELS, as_srgb=True).pixels


def theirs(pixels: Any, profile: bytes) -> Any:
    """What LittleCMS makes of it, exactly and without tables of its own."""
    flags = ImageCms.Flags.NOOPTIMIZE | ImageCms.Flags.NOCACHE
    done = ImageCms.profileToProfile(
        Image.fromarray(pixels), ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC, outputMode="RGB", flags=flags,
    )  # fmt: skip
    assert done is not None
    return np.asarray(done).astype(int)


def in_png(profile: bytes, *, colour: int = 2, rows: bytes = b"\0\xc8\x32\x0a") -> bytes:
    return png(1, 1, 8, colour, rows, between=chunk(b"iCCP", b"name\0\0" + zlib.compress(profile)))


@pytest.mark.parametrize("name", PROFILES)
def test_little_cms_agrees(name: str) -> None:
    """To within one level, of any colour."""
    found = converted(saved(noise(), "PNG", icc_profile=PROFILES[name]))
    assert np.abs(found - theirs(noise(), PROFILES[name])).max() <= 1
    assert np.abs(found.astype(int) - noise()).max() > 10


@pytest.mark.parametrize("name", [name for name in PROFILES if name not in ("kind 1", "kind 2")])
def test_black_and_white_stay(name: str) -> None:
    """To the last bit, where the curves lead from one to the other."""
    pixels = np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)
    assert np.array_equal(converted(saved(pixels, "PNG", icc_profile=PROFILES[name])), pixels)


@pytest.mark.parametrize(("form", "options"), [("JPEG", {"quality": 100, "subsampling": 0}), ("WEBP", {"lossless": True})])  # fmt: skip
def test_every_container_brings_its_profile(form: str, options: dict[str, Any]) -> None:
    """JPEG and WebP as PNG above; the pixels are those of the file, then converted."""
    data = saved(noise(), form, icc_profile=rgb_profile(), **options)
    stored = decode(data, max_pixels=MAX_PIXELS).pixels
    assert np.array_equal(stored, decode(saved(noise(), form, **options), max_pixels=MAX_PIXELS).pixels)
    assert np.abs(converted(data) - theirs(stored, rgb_profile())).max() <= 1


@pytest.mark.parametrize("steps", [[], [Step(resize=Resize(width=16))]], ids=["whole", "reduced"])
def test_what_is_answered_is_srgb(steps: list[Step]) -> None:
    """A file without a profile whose colours are those that were meant, also where the decoder shrinks the picture."""
    flat = np.full((512, 512, 3), (200, 60, 30), np.uint8)
    data = saved(flat, "JPEG", quality=95, subsampling=0, icc_profile=rgb_profile())
    work = process(data, steps, max_pixels=MAX_PIXELS)
    with pytest.raises(StopIteration) as end:
        next(work)
    answer = Image.open(io.BytesIO(end.value.value.image))
    assert "icc_profile" not in answer.info
    meant = theirs(flat[:1, :1], rgb_profile())[0, 0]
    assert np.abs(np.asarray(answer)[8, 8] - meant).max() <= 3
    assert np.abs(meant - (200, 60, 30)).max() > 10


def test_srgb_stays_to_the_last_bit() -> None:
    """With a profile of sRGB, by formula or sampled."""
    places = np.linspace(0, 1, 1024)
    light = np.where(places <= 0.04045, places / 12.92, ((places + 0.055) / 1.055) ** 2.4)
    table = sampled(*np.rint(light * 65535).astype(int).tolist())
    for profile in (
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        rgb_profile(SRGB, table), rgb_profile(SRGB, parametric(3, *SRGB_CURVE)),
    ):  # fmt: skip
        assert np.array_equal(converted(saved(noise(), "PNG", icc_profile=profile)), noise())


def test_grey_has_profiles_of_its_own() -> None:
    """A curve alone; one of colour says nothing of grey, nor one of grey of colour."""
    grey = icc({b"kTRC": sampled(256)}, b"GRAY")
    found = converted(in_png(grey, colour=0, rows=b"\0\x80"))
    assert found.tolist() == [[[188] * 3]]  # half of the light
    assert converted(in_png(grey)).tolist() == [[[200, 50, 10]]]
    assert converted(in_png(rgb_profile(), colour=0, rows=b"\0\x80")).tolist() == [[[128] * 3]]
    assert converted(in_png(grey.replace(b"GRAYXYZ ", b"GRAYLab "), colour=0, rows=b"\0\x80")).tolist() == [[[128] * 3]]
    jpeg = saved(np.full((8, 8), 128, np.uint8), "JPEG", icc_profile=grey)
    assert converted(jpeg).tolist() == [[[188] * 3] * 8] * 8


def test_colours_are_converted_before_white_shines_through() -> None:
    """As a browser does: what is transparent is white, what is half so lies half way."""
    rows = b"\0" + bytes([200, 50, 10, 0]) + bytes([200, 50, 10, 255]) + bytes([200, 50, 10, 51])
    data = png(3, 1, 8, 6, rows, between=chunk(b"iCCP", b"name\0\0" + zlib.compress(rgb_profile())))
    meant = theirs(np.array([[[200, 50, 10]]], np.uint8), rgb_profile())[0, 0]
    expected = [[255] * 3, meant, 255 - (255 - meant) / 5]
    assert np.abs(converted(data)[0] - expected).max() <= 1


def parts(profile: bytes, size: int) -> list[bytes]:
    """APP2 segments of a JPEG."""
    pieces = [profile[start : start + size] for start in range(0, len(profile), size)]
    heads = [b"ICC_PROFILE\0" + bytes([number, len(pieces)]) for number in range(1, len(pieces) + 1)]
    return [
        b"\xff\xe2" + struct.pack(">H", 2 + len(head + piece)) + head + piece
        for head, piece in zip(heads, pieces, strict=True)
    ]


def test_a_profile_in_parts_is_joined_by_their_numbers() -> None:
    """In whatever order they come; with one missing, or twice there, it is no profile."""
    plain = saved(quarters(), "JPEG", quality=95, subsampling=0)
    whole = converted(saved(quarters(), "JPEG", quality=95, subsampling=0, icc_profile=rgb_profile()))
    segments = parts(rgb_profile(), 100)
    assert len(segments) > 3
    assert np.array_equal(converted(plain[:2] + b"".join(reversed(segments)) + plain[2:]), whole)
    for broken in (segments[1:], segments + segments[:1], [segments[0], *segments[2:], segments[0]]):
        assert np.array_equal(converted(plain[:2] + b"".join(broken) + plain[2:]), converted(plain))


def without(profile: bytes, tag: bytes) -> bytes:
    return profile.replace(tag, b"none", 1)


BROKEN = {
    "nothing": b"",
    "a head": rgb_profile()[:128],
    "cut off": rgb_profile()[:200],
    "no signature": rgb_profile().replace(b"acsp", b"xxxx"),
    "of CMYK": rgb_profile().replace(b"RGB ", b"CMYK"),
    "not to XYZ": rgb_profile().replace(b"RGB XYZ ", b"RGB Lab "),
    "without red": without(rgb_profile(), b"rXYZ"),
    "without a curve": without(rgb_profile(), b"bTRC"),
    "colours that are none": rgb_profile().replace(b"XYZ \0\0\0\0", b"text\0\0\0\0"),
    "tables": rgb_profile().replace(b"para", b"mAB "),
    "no white": rgb_profile([(0.1, 0.1, 0.1)] * 3),
    "all negative": rgb_profile([(-0.3, -0.3, -0.3)] * 3),
    "a curve beyond its end": rgb_profile(curve=sampled(*range(4))[:12].replace(b"\0\0\0\4", b"\xff\xff\xff\xff")),
    "an unknown curve": rgb_profile(curve=parametric(9, *range(7))),
    "a curve divided by zero": rgb_profile(curve=parametric(1, 2.2, 0, 0.5)),
    "an endless curve": rgb_profile(curve=parametric(0, -3)),
    "too large": rgb_profile() + bytes(MAX_PROFILE_BYTES),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_profile_is_none(name: str) -> None:
    """The picture is as it would be without, in every container."""
    assert converted(in_png(BROKEN[name])).tolist() == [[[200, 50, 10]]]
    webp = saved(noise(), "WEBP", lossless=True, icc_profile=BROKEN[name] or None)
    assert np.array_equal(converted(webp), noise())


def test_a_profile_that_unpacks_without_end_is_none() -> None:
    """And one that is not packed at all."""
    bomb = b"name\0\0" + zlib.compress(bytes(50 * MAX_PROFILE_BYTES))
    for content in (bomb, b"name\0\0" + rgb_profile(), b"name", b""):
        data = png(1, 1, 8, 2, b"\0\xc8\x32\x0a", between=chunk(b"iCCP", content))
        assert converted(data).tolist() == [[[200, 50, 10]]]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(PROFILES)), st.data())
def test_no_damaged_profile_fails(name: str, data: st.DataObject) -> None:
    """Flipped bits and numbers, anywhere."""
    profile = bytearray(PROFILES[name])
    for _ in range(data.draw(st.integers(1, 8))):
        profile[data.draw(st.integers(16, len(profile) - 1))] = data.draw(st.sampled_from([0, 1, 127, 128, 255]))
    assert converted(in_png(bytes(profile))).shape == (1, 1, 3)
