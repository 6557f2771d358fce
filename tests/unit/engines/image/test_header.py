"""Headers: what each format says of itself, and what is refused before it is decoded."""

from __future__ import annotations

import struct
import time
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phalanx.engines.image.decode import decode
from phalanx.engines.image.exif import orientation_of
from phalanx.engines.image.header import MAX_FRAMES, MAX_SCANS, Header, read_header
from phalanx.errors import TooLarge, UnreadableInput, UnsupportedMediaType
from pictures import chunk, jpeg_with, noise, oriented, png, samples, saved, tiff

MAX_PIXELS = 40_000_000
SAMPLES = samples()


def header_of(data: bytes) -> Header:
    return read_header(data, max_pixels=MAX_PIXELS)


FACTS = {
    "jpeg": ("jpeg", 64, 48, 8, False, 1),
    "progressive jpeg": ("jpeg", 64, 48, 8, False, 1),
    "grey jpeg": ("jpeg", 64, 48, 8, False, 1),
    "cmyk jpeg": ("jpeg", 64, 48, 8, False, 1),
    "exif jpeg": ("jpeg", 64, 48, 8, False, 1),
    "png": ("png", 64, 48, 8, False, 1),
    "palette png": ("png", 64, 48, 8, False, 1),
    "alpha png": ("png", 64, 48, 8, True, 1),
    "grey png": ("png", 64, 48, 8, False, 1),
    "16-bit png": ("png", 1, 1, 16, False, 1),
    "animated png": ("png", 64, 48, 8, False, 2),
    "webp": ("webp", 64, 48, 8, False, 1),
    "lossless webp": ("webp", 64, 48, 8, False, 1),
    "alpha webp": ("webp", 64, 48, 8, True, 1),
    "animated webp": ("webp", 64, 48, 8, False, 2),
    "bmp": ("bmp", 64, 48, 8, False, 1),
    "palette bmp": ("bmp", 64, 48, 8, False, 1),
    "1 × 1": ("png", 1, 1, 8, False, 1),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_every_kind_is_read(name: str) -> None:
    """Pillow's word against ours."""
    found = header_of(SAMPLES[name])
    frames = 2 if "animated" in name else 1
    assert found[:5] == FACTS[name][:5]
    assert found.frames >= frames
    assert found.orientation == (6 if "exif" in name else 1)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"GIF89a" + bytes(20), "GIF"), (b"II*\0" + bytes(20), "TIFF"), (b"\0\0\0\x1cftypavif", "AVIF"),
        (b"\0\0\0\x18ftypheic", "HEIC"), (b"\0\0\x01\0\x01\0", "ICO"), (b"\xff\x0a" + bytes(9), "JPEG XL"),
    ],
)  # fmt: skip
def test_other_image_formats_are_named(data: bytes, found: str) -> None:
    """With what is read instead."""
    with pytest.raises(UnsupportedMediaType, match=f"{found}; JPEG, PNG, WebP and BMP are read"):
        header_of(data)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "empty"), (b"\xff", "no image"), (b" <svg/>", "SVG"), (b"<!DOCTYPE html>", "HTML"), (b"PK\x03\x04", "ZIP"),
        (b"%PDF-1.7", "PDF"), (b'{"a":1}', "JSON"), (b"\x1f\x8b\x08", "gzip"), (bytes(1000), "no image"),
        (b"RIFF\x04\0\0\0WAVE", "no image"), (b"x" + saved(noise(), "PNG"), "no image"),
    ],
)  # fmt: skip
def test_what_is_no_image_is_told(data: bytes, found: str) -> None:
    """A name or content type is never asked."""
    with pytest.raises(UnreadableInput, match=found):
        header_of(data)


def test_a_bomb_is_refused_by_its_header() -> None:
    """20,000 × 20,000 in a few hundred bytes, in every format, without a pixel decoded."""
    side = 20_000
    bombs = [
        png(side, side, 8, 2, b""),
        SAMPLES["jpeg"].replace(struct.pack(">HH", 48, 64), struct.pack(">HH", side, side), 1),
        b"BM" + struct.pack("<IHHI", 0, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 1, 0, 0, 0, 0, 0),
        b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8L" + struct.pack("<I", 10) + b"\x2f" + struct.pack("<I", 16383 | 16383 << 14) + bytes(5),
    ]  # fmt: skip
    for bomb in bombs:
        with pytest.raises(TooLarge, match=r"pixels, 40000000 are allowed"):
            read_header(bomb, max_pixels=MAX_PIXELS)


def test_limits_are_exact() -> None:
    """As many pixels as allowed pass, one more does not."""
    data = saved(noise(10, 10), "PNG")
    assert read_header(data, max_pixels=100).width == 10
    with pytest.raises(TooLarge, match=r"10 × 10 = 100 pixels, 99 are allowed"):
        read_header(data, max_pixels=99)


def test_a_film_is_refused() -> None:
    """Its first frame would do, but such a file is meant for something else."""
    film = png(1, 1, 8, 0, b"\0\0", between=chunk(b"acTL", struct.pack(">II", MAX_FRAMES + 1, 0)))
    with pytest.raises(TooLarge, match="frames"):
        header_of(film)


def test_a_jpeg_of_endless_scans_is_refused() -> None:
    """Each scan is a pass over all pixels."""
    data = SAMPLES["jpeg"]
    scan = data.index(b"\xff\xda")
    assert header_of(data[:scan] + data[scan:-2] + b"\xff\xd9")
    with pytest.raises(UnreadableInput, match="scans"):
        header_of(data[:-2] + b"\xff\xda\x00\x02" * MAX_SCANS + b"\xff\xd9")


def test_what_lies_behind_a_jpeg_is_not_counted_to_it() -> None:
    """The film of a motion photo: by chance it holds the marker of a scan every 64 KiB, and once made 30 times the work of it."""
    film = b"\0\0\0\x18ftypmp42" + b"\xff\xda\x12\x34" * (2 * MAX_SCANS)
    for name in ("jpeg", "progressive jpeg"):
        found = header_of(SAMPLES[name] + film)
        assert found == header_of(SAMPLES[name])
        assert np.array_equal(
            decode(SAMPLES[name] + film, max_pixels=MAX_PIXELS).pixels,
            decode(SAMPLES[name], max_pixels=MAX_PIXELS).pixels,
        )
    assert header_of(SAMPLES["jpeg"]).scans == 1
    assert header_of(SAMPLES["progressive jpeg"]).scans == SAMPLES["progressive jpeg"].count(b"\xff\xda") > 1


def test_scans_cannot_be_hidden_behind_an_end_that_is_none() -> None:
    """In a comment between two of them it is text."""
    data = SAMPLES["progressive jpeg"]
    place = data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)
    comment = b"\xff\xfe\x00\x06\xff\xd9\xff\xd9"
    assert header_of(data[:place] + comment + data[place:]) == header_of(data)
    with pytest.raises(UnreadableInput, match="scans"):
        header_of(data[:place] + comment + b"\xff\xda\x00\x02" * MAX_SCANS + data[place:])
    with pytest.raises(UnreadableInput, match="segments"):
        header_of(data[:place] + b"\xff\xfe\x00\x02" * 5000 + data[place:])


@pytest.mark.parametrize("name", SAMPLES)
def test_no_truncation_is_decoded(name: str) -> None:
    """Cut anywhere, a file is refused, by its header or by its pixels."""
    data = SAMPLES[name]
    for length in {*range(0, min(len(data), 200), 7), len(data) // 2, len(data) - 12}:
        with pytest.raises((UnreadableInput, UnsupportedMediaType)):
            decode(data[:length], max_pixels=MAX_PIXELS)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_read_in_every_container(orientation: int, order: str) -> None:
    """JPEG's segment, PNG's chunk (also behind the pixels), WebP's chunk."""
    exif = oriented(orientation, order)
    files = [
        jpeg_with(exif),
        png(1, 1, 8, 0, b"\0\0", between=chunk(b"eXIf", exif)),
        png(1, 1, 8, 0, b"\0\0", behind=chunk(b"eXIf", exif)),
        saved(noise(), "WEBP", exif=b"Exif\0\0" + exif),
    ]
    assert [header_of(file).orientation for file in files] == [orientation] * 4


@pytest.mark.parametrize(
    "block", [b"", b"II*\0", b"II*\0\xff\xff\xff\xff", oriented(9), oriented(0), tiff([(0x0112, 2, 4, b"abc\0")])]
)
def test_broken_exif_is_no_exif(block: bytes) -> None:
    """The picture is still read."""
    assert orientation_of(block) == 1


@pytest.mark.parametrize(
    ("prefix", "rest"),
    [
        (b"\xff\xd8\xff", b"\xe0\x00\x02\xff"), (b"\x89PNG\r\n\x1a\n", b"\0\0\0\0abcd\0\0\0\0"),
        (b"RIFF\xff\xff\xff\x00WEBP", b"abcd\0\0\0\0"),
    ],
)  # fmt: skip
def test_a_file_of_tiny_parts_is_no_work(prefix: bytes, rest: bytes) -> None:
    """10 MB of empty chunks or fill bytes are given up in well under a second."""
    data = (prefix + rest * (10 * 2**20 // len(rest)))[: 10 * 2**20]
    began = time.perf_counter()
    with pytest.raises(UnreadableInput):
        header_of(data)
    assert time.perf_counter() - began < 3


def swallow(data: bytes) -> None:
    """Read or refuse; anything but a refusal of ours is a failure."""
    with suppress(TooLarge, UnreadableInput, UnsupportedMediaType):
        decoded = decode(data, max_pixels=100_000, max_side=40)
        assert decoded.pixels.dtype == np.uint8
        assert decoded.pixels.shape[2] == 3


SIGNATURES = [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x40\0\0\0WEBPVP8X", b"RIFF\x40\0\0\0WEBPVP8L", b"BM", b""]


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(SIGNATURES), st.binary(max_size=200))
def test_any_bytes_behind_a_signature_are_refused_or_read(signature: bytes, rest: bytes) -> None:
    """No exception of ours or of a library leaves."""
    swallow(signature + rest)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(SAMPLES)), st.data())
def test_damaged_files_are_refused_or_read(name: str, data: st.DataObject) -> None:
    """Flipped bits, cut ends and doubled parts of valid files."""
    original = bytearray(SAMPLES[name])
    for _ in range(data.draw(st.integers(1, 8))):
        # Half of the damage hits the header, where it matters.
        end = data.draw(st.sampled_from([min(64, len(original)), len(original)]))
        original[data.draw(st.integers(0, end - 1))] ^= 1 << data.draw(st.integers(0, 7))
    cut = data.draw(st.integers(0, len(original)) | st.just(len(original)))
    swallow(bytes(original[:cut]))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([b"II*\0", b"MM\0*"]), st.binary(max_size=300))
def test_any_exif_is_survived(order: bytes, rest: bytes) -> None:
    """EXIF never fails."""
    assert 1 <= orientation_of(order + rest) <= 8


def test_a_webp_with_a_profile_has_no_alpha_for_that() -> None:
    """What is extended by a colour profile or EXIF is as opaque as it was."""
    assert not header_of(saved(noise(), "WEBP", icc_profile=b"profile")).has_alpha
    assert not header_of(saved(noise(), "WEBP", exif=oriented(6))).has_alpha
    assert header_of(saved(np.dstack([noise(), noise()[:, :, 0]]), "WEBP", icc_profile=b"profile")).has_alpha


@pytest.mark.parametrize(
    ("bits", "masks", "is_read"),
    [
        (16, (0x7C00, 0x3E0, 0x1F), True), (16, (0xF800, 0x7E0, 0x1F), True), (16, (0xF00, 0xF0, 0xF), False),
        (32, (0xFF0000, 0xFF00, 0xFF), True), (32, (0xFF, 0xFF00, 0xFF0000), False),
        (32, (0xFF000000, 0xFF0000, 0xFF00), False), (24, (0xFF0000, 0xFF00, 0xFF), False),
    ],
)  # fmt: skip
def test_a_bmp_of_another_order_of_channels_is_refused(bits: int, masks: tuple[int, ...], is_read: bool) -> None:
    """The decoder would take red for blue."""
    head = struct.pack("<IiiHHIIiiII", 40, 1, 1, 1, bits, 3, 4, 0, 0, 0, 0) + struct.pack("<III", *masks)
    data = b"BM" + struct.pack("<IHHI", 70, 0, 0, 66) + head + bytes(4)
    if is_read:
        assert header_of(data).format == "bmp"
    else:
        with pytest.raises(UnreadableInput):
            header_of(data)


def part(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def extended(width: int, height: int, flags: int = 0) -> bytes:
    return part(
        b"VP8X", bytes([flags, 0, 0, 0]) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    )


def riff(*parts: bytes) -> bytes:
    content = b"WEBP" + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(content)) + content


@pytest.mark.parametrize("lossless", [True, False])
def test_a_webp_has_the_size_that_is_decoded(lossless: bool) -> None:
    """Not one that is said where no decoder looks: a small one let 144 million pixels through, and 829 MiB."""
    frame = saved(noise(), "WEBP", lossless=lossless)[12:]
    for data in (riff(frame, extended(1, 1)), riff(extended(64, 48), extended(1, 1), frame)):
        assert (header_of(data).width, header_of(data).height) == (64, 48)
        with pytest.raises(TooLarge):
            read_header(data, max_pixels=64 * 48 - 1)
        assert decode(data, max_pixels=64 * 48).pixels.shape == (48, 64, 3)
    for width, height in ((1, 1), (64, 47), (65, 48)):
        with pytest.raises(UnreadableInput, match="64 × 48 pixels, its header says"):
            header_of(riff(extended(width, height), frame))
    with pytest.raises(UnreadableInput, match="no pixels"):
        header_of(riff(extended(64, 48), part(b"ANMF", bytes(16) + frame)))


@pytest.mark.parametrize(
    ("brand", "name"),
    [(b"avis", "AVIF"), (b"heix", "HEIC"), (b"hevc", "HEIC"), (b"mif1", "HEIF"), (b"msf1", "HEIF")],
)
def test_every_brand_of_heif_is_named(brand: bytes, name: str) -> None:
    """Bursts and animations of phones too."""
    with pytest.raises(UnsupportedMediaType, match=name):
        header_of(b"\0\0\0\x18ftyp" + brand + bytes(8))
