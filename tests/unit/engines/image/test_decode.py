"""Decoding: pixels as they should be, of every kind of file, upright and at the size that suffices."""

from __future__ import annotations

import platform
import struct
import subprocess
import sys
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from PIL import Image

from phalanx.engines.image.decode import Decoded, decode, reduction
from phalanx.engines.image.header import Header
from phalanx.errors import UnreadableInput
from pictures import BLUE, GREEN, GREY, RED, astronaut, chunk, jpeg_with, noise, oriented, png, quarters, samples, saved

MAX_PIXELS = 40_000_000


def read(data: bytes, max_side: int | None = None) -> Decoded:
    return decode(data, max_pixels=MAX_PIXELS, max_side=max_side)


def corners(decoded: Decoded) -> list[tuple[int, ...]]:
    """The four corners' colours: left top, right top, left bottom, right bottom."""
    pixels = decoded.pixels
    return [tuple(pixels[y, x].tolist()) for y, x in ((3, 3), (3, -4), (-4, 3), (-4, -4))]


@pytest.mark.parametrize("name", ["png", "lossless webp", "bmp", "animated png", "animated webp"])
def test_lossless_files_give_their_pixels(name: str) -> None:
    """To the last bit, red first; of an animation the first frame."""
    assert np.array_equal(read(samples()[name]).pixels, noise())


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data,
        lambda data: data.replace(chunk(b"acTL", struct.pack(">II", 2, 0)), chunk(b"acTL", bytes(8))),
        lambda data: data.replace(b"fdAT", b"fdAt"),
        lambda data: data.replace(b"fcTL", b"fdAT"),
    ],
    ids=["whole", "without frames", "without pixels", "without places"],
)
def test_of_an_animated_png_nothing_else_is_read(damage: Callable[[bytes], bytes]) -> None:
    """Its own picture is it, also where it is not part of the animation, or what moves is damaged."""
    moving = saved(
        255 - noise(), "PNG", save_all=True, append_images=[Image.fromarray(noise())] * 2, default_image=True
    )
    assert np.array_equal(read(damage(moving)).pixels, 255 - noise())


@pytest.mark.parametrize("form", ["JPEG", "WEBP"])
def test_lossy_files_give_nearly_their_pixels(form: str) -> None:
    """A photograph, at quality 95."""
    photo = astronaut()
    difference = read(saved(photo, form, quality=95)).pixels.astype(int) - photo
    assert np.abs(difference).mean() < 3


ORDER = {
    1: (RED, GREEN, BLUE, GREY), 2: (GREEN, RED, GREY, BLUE), 3: (GREY, BLUE, GREEN, RED), 4: (BLUE, GREY, RED, GREEN),
    5: (RED, BLUE, GREEN, GREY), 6: (BLUE, RED, GREY, GREEN), 7: (GREY, GREEN, BLUE, RED), 8: (GREEN, GREY, RED, BLUE),
}  # fmt: skip
"""Where the stored corners belong, from EXIF's definition of each orientation."""


@pytest.mark.parametrize("orientation", ORDER)
@pytest.mark.parametrize("max_side", [None, 16])
def test_every_orientation_is_put_upright(orientation: int, max_side: int | None) -> None:
    """All eight, at full and at reduced size; the scale leads back to the upright original."""
    found = read(jpeg_with(oriented(orientation), quarters(64, 48)), max_side)
    assert np.abs(np.array(corners(found)) - np.array(ORDER[orientation])).max() < 12
    width, height = (48, 64) if orientation >= 5 else (64, 48)
    across, down = found.scale
    assert (found.pixels.shape[1] * across, found.pixels.shape[0] * down) == (width, height)
    assert found.pixels.shape[1] == (width if max_side is None else width // 4)


@pytest.mark.parametrize("orientation", ORDER)
def test_pillow_agrees_on_orientations(orientation: int) -> None:
    """Another implementation's word."""
    import io

    from PIL import Image, ImageOps

    data = png(3, 2, 8, 0, b"\0\x01\x02\x03\0\x04\x05\x06", between=chunk(b"eXIf", oriented(orientation)))
    with Image.open(io.BytesIO(data)) as image:
        theirs = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(read(data).pixels[:, :, 0], theirs)


@pytest.mark.parametrize(
    ("side", "max_side", "divisor"),
    [(4000, 192, 8), (1536, 192, 8), (1535, 192, 4), (768, 192, 4), (767, 192, 2), (383, 192, 1), (100, 192, 1)],
)
def test_the_reduction_leaves_enough(side: int, max_side: int, divisor: int) -> None:
    """Never fewer pixels than asked for; only JPEG can."""
    assert reduction(Header("jpeg", side, side // 2), max_side) == divisor
    assert reduction(Header("jpeg", side // 2, side), max_side) == divisor
    assert reduction(Header("png", side, side), max_side) == 1


def test_a_reduced_decode_looks_like_the_whole_one() -> None:
    """Averages of blocks, but for the rounding of the transform."""
    photo = astronaut()[:504]
    whole = read(saved(photo, "JPEG", quality=95))
    small = read(saved(photo, "JPEG", quality=95), 120)
    assert small.scale == (4, 4)
    expected = cv2.resize(whole.pixels, (128, 126), interpolation=cv2.INTER_AREA)
    assert np.abs(small.pixels.astype(int) - expected).mean() < 3


def test_a_side_that_is_no_multiple_is_rounded_up() -> None:
    """The scale leads from border to border."""
    small = read(saved(astronaut()[:501, :507], "JPEG"), 120)
    assert small.pixels.shape == (126, 127, 3)
    assert small.scale == (507 / 127, 501 / 126)


def test_alpha_is_laid_on_white() -> None:
    """Wholly transparent is white, opaque is itself, half is half way; palettes with transparency too."""
    rows = b"\0" + bytes([200, 100, 0, 0, 200, 100, 0, 255, 200, 100, 0, 128])
    assert read(png(3, 1, 8, 6, rows)).pixels[0].tolist() == [[255, 255, 255], [200, 100, 0], [227, 177, 127]]
    palette = chunk(b"PLTE", bytes([200, 100, 0, 0, 255, 0])) + chunk(b"tRNS", b"\0")
    assert read(png(2, 1, 8, 3, b"\0\0\x01", between=palette)).pixels[0].tolist() == [[255, 255, 255], [0, 255, 0]]


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_transparent_grey_is_laid_on_white_too(bits: int) -> None:
    """One level of a grey PNG, as optimisers of files leave it; every other level stays."""
    top = 2**bits - 1
    row = struct.pack(">HH", 0, top) if bits == 16 else bytes([0, top]) if bits == 8 else bytes([top << 8 - 2 * bits])
    black = chunk(b"tRNS", struct.pack(">H", 0))
    assert read(png(2, 1, bits, 0, b"\0" + row)).pixels[0].tolist() == [[0] * 3, [255] * 3]
    assert read(png(2, 1, bits, 0, b"\0" + row, between=black)).pixels[0].tolist() == [[255] * 3, [255] * 3]
    if bits >= 4:
        middle = chunk(b"tRNS", struct.pack(">H", top // 3))
        row = struct.pack(">HH", 0, top // 3) if bits == 16 else bytes([0, top // 3] if bits == 8 else [top // 3])
        assert read(png(2, 1, bits, 0, b"\0" + row, between=middle)).pixels[0].tolist() == [[0] * 3, [255] * 3]


def test_sixteen_bits_are_cut_to_eight() -> None:
    """Grey, colour, and colour with alpha."""
    assert read(png(1, 1, 16, 0, b"\0" + struct.pack(">H", 0x80FF))).pixels.tolist() == [[[128] * 3]]
    assert read(png(1, 1, 16, 2, b"\0" + struct.pack(">HHH", 65535, 0x80FF, 1))).pixels.tolist() == [[[255, 128, 0]]]
    opaque = png(1, 1, 16, 6, b"\0" + struct.pack(">HHHH", 65535, 0x8000, 0, 65535))
    assert read(opaque).pixels.tolist() == [[[255, 128, 0]]]


def test_grey_and_cmyk_become_colour() -> None:
    """Three channels always; CMYK within what its conversion costs."""
    grey = read(saved(noise(), "PNG", mode="L")).pixels
    assert grey.shape == (48, 64, 3)
    assert np.array_equal(grey[:, :, 0], grey[:, :, 2])
    flat = np.full((32, 32, 3), (200, 100, 50), np.uint8)
    assert np.abs(read(saved(flat, "JPEG", mode="CMYK")).pixels.astype(int) - flat).max() < 8


def test_a_polyglot_is_what_its_signature_says() -> None:
    """A ZIP behind a PNG is ignored; pixels are all that is taken."""
    assert np.array_equal(read(saved(noise(), "PNG") + b"PK\x03\x04rubbish").pixels, noise())


def test_broken_pixels_are_refused() -> None:
    """A good header does not help: a checksum that is wrong, rows that are missing."""
    data = bytearray(saved(noise(), "PNG"))
    data[len(data) // 2] ^= 0xFF
    for broken in (bytes(data), png(64, 48, 8, 2, b"\0" * 100)):
        with pytest.raises(UnreadableInput, match="pixels cannot be decoded"):
            read(broken)


def test_opencv_spawns_no_threads() -> None:
    """The two that work on images are all."""
    assert cv2.getNumThreads() == 1


LARGE_BLOCK = """
import ctypes
from phalanx.engines.image.decode import decode
c = ctypes.CDLL(None)
c.malloc.restype, c.malloc.argtypes, c.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
c.free(c.malloc(30 * 2**20))
block = c.malloc(8 * 2**20)
print(ctypes.c_size_t.from_address(block - ctypes.sizeof(ctypes.c_size_t)).value & 2)
"""
"""glibc marks a block with a mapping of its own by a bit of the word before it."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what is set is glibc's")
def test_large_blocks_go_back_to_the_system() -> None:
    """Whatever was freed before; in a new process, for here a heap may have room for it by now."""
    assert subprocess.run([sys.executable, "-c", LARGE_BLOCK], capture_output=True, text=True).stdout == "2\n"


def test_a_broken_file_writes_nothing_to_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    """OpenCV has words of its own for a palette of 1,000 colours."""
    broken = bytearray(saved(noise(), "BMP", mode="P"))
    struct.pack_into("<I", broken, 46, 1000)
    with pytest.raises(UnreadableInput):
        read(bytes(broken))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", [b"tIME", b"tEXt", b"gAMA", b"iCCP", b"sBIT", b"eXIf", b"PLTE", b"bKGD"])
def test_malformed_remarks_of_a_png_write_nothing_to_the_log(kind: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    """The decoder has a line for each, and a file room for 100,000. The pixels are those of the file without them."""
    damaged = chunk(kind, b"\1\2\3")[:-4] + b"abcd"
    data = saved(noise(), "PNG", mode="P")
    pixels = data.index(b"IDAT") - 4
    assert np.array_equal(read(data[:pixels] + damaged * 50 + data[pixels:]).pixels, read(data).pixels)
    assert capfd.readouterr().err == ""


def bmp_of_32_bits(pixels: bytes, *, length: int, alpha: int) -> bytes:
    """A BMP of one row, blue first, whose header names where alpha lies."""
    head = struct.pack("<IiiHHIIiiII", length, len(pixels) // 4, 1, 1, 32, 3, len(pixels), 0, 0, 0, 0)
    head = (head + struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, alpha)).ljust(length, b"\0")
    return b"BM" + struct.pack("<IHHI", 14 + length + len(pixels), 0, 0, 14 + length) + head + pixels


@pytest.mark.parametrize("length", [56, 108, 124])
def test_a_bmp_may_have_alpha(length: int) -> None:
    """Laid on white, too; where it is zero throughout, or the header names none, nothing is transparent."""
    row = bytes([0, 100, 200, 0, 0, 100, 200, 255, 0, 100, 200, 128])
    found = read(bmp_of_32_bits(row, length=length, alpha=0xFF000000))
    assert found.header.has_alpha
    assert found.pixels.tolist() == [[[255, 255, 255], [200, 100, 0], [227, 177, 127]]]
    none = read(bmp_of_32_bits(row, length=length, alpha=0))
    assert not none.header.has_alpha
    assert none.pixels.tolist() == [[[200, 100, 0]] * 3]
    zero = bytes([0, 100, 200, 0]) * 3
    assert read(bmp_of_32_bits(zero, length=length, alpha=0xFF000000)).pixels.tolist() == [[[200, 100, 0]] * 3]
