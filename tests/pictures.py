"""Pictures for tests: files of every kind, made by Pillow or by hand."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from skimage import data as photos

Pixels = npt.NDArray[np.uint8]

RED, GREEN, BLUE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128)


def quarters(width: int = 64, height: int = 48) -> Pixels:
    """Red left top, green right top, blue left bottom, grey right bottom."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = RED
    pixels[: height // 2, width // 2 :] = GREEN
    pixels[height // 2 :, : width // 2] = BLUE
    pixels[height // 2 :, width // 2 :] = GREY
    return pixels


def noise(width: int = 64, height: int = 48) -> Pixels:
    return np.random.default_rng(7).integers(0, 256, (height, width, 3), np.uint8)


def astronaut() -> Pixels:
    """A portrait in the public domain, 512 × 512."""
    photo: Pixels = photos.astronaut()  # type: ignore[no-untyped-call]
    return photo


def saved(pixels: Any, form: str, *, mode: str | None = None, **options: Any) -> bytes:
    image = Image.fromarray(pixels)
    out = io.BytesIO()
    (image.convert(mode) if mode else image).save(out, form, **options)
    return out.getvalue()


def tiff(entries: list[tuple[int, int, int, bytes]], order: str = "<") -> bytes:
    """A TIFF block with one directory; a value of more than four bytes goes behind it."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    behind, where = b"", 8 + 2 + 12 * len(entries) + 4
    directory = struct.pack(order + "H", len(entries))
    for tag, kind, count, value in entries:
        place = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack(order + "I", where + len(behind))
        behind += value if len(value) > 4 else b""
        directory += struct.pack(order + "HHI", tag, kind, count) + place
    return head + directory + bytes(4) + behind


def oriented(orientation: int, order: str = "<") -> bytes:
    return tiff([(0x0112, 3, 1, struct.pack(order + "H", orientation))], order)


def jpeg_with(exif: bytes, pixels: Pixels | None = None) -> bytes:
    data = saved(quarters() if pixels is None else pixels, "JPEG", quality=95, subsampling=0)
    segment = b"Exif\0\0" + exif
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:]


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, bits: int, colour: int, rows: bytes, *, between: bytes = b"", behind: bytes = b"") -> bytes:  # fmt: skip
    """A PNG of raw rows, each after its filter byte, with chunks between the header and the pixels, or behind these."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + between + chunk(b"IDAT", zlib.compress(rows)) + behind
        + chunk(b"IEND", b"")
    )  # fmt: skip


SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
P3 = ((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407))
"""XYZ of Display P3's red, green and blue under D50."""


def fixed(*numbers: float) -> bytes:
    return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)


def parametric(kind: int, *numbers: float) -> bytes:
    return b"para\0\0\0\0" + struct.pack(">HH", kind, 0) + fixed(*numbers)


def sampled(*numbers: int) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(f">I{len(numbers)}H", len(numbers), *numbers)


def icc(tags: dict[bytes, bytes], space: bytes = b"RGB ") -> bytes:
    """An ICC profile of a display, version 2 or 4 by its curves, with these tags and those that every one has."""
    name = "x".encode("utf-16-be")
    said = b"mluc\0\0\0\0" + struct.pack(">IIHHII", 1, 12, 0x656E, 0x5553, len(name), 28) + name + bytes(2)
    white = b"XYZ \0\0\0\0" + fixed(0.9642, 1, 0.8249)
    tags = {**tags, b"wtpt": white, b"desc": said, b"cprt": said}
    start = 132 + 12 * len(tags)
    table, content = struct.pack(">I", len(tags)), b""
    for tag, value in tags.items():
        table += struct.pack(">4sII", tag, start + len(content), len(value))
        content += value.ljust(-(-len(value) // 4) * 4, b"\0")
    head = struct.pack(">I4sI4s4s4s", start + len(content), bytes(4), 0x04200000, b"mntr", space, b"XYZ ")
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + fixed(0.9642, 1, 0.8249)
    return head.ljust(128, b"\0") + table + content


def rgb_profile(colours: Any = P3, curve: bytes = parametric(3, *SRGB_CURVE)) -> bytes:
    """A profile of a matrix and one curve: Display P3, as phones write it, unless told otherwise."""
    tags = {name: b"XYZ \0\0\0\0" + fixed(*xyz) for name, xyz in zip((b"rXYZ", b"gXYZ", b"bXYZ"), colours, strict=True)}
    return icc({**tags, b"rTRC": curve, b"gTRC": curve, b"bTRC": curve})


def samples() -> dict[str, bytes]:
    """One valid file of every kind that is read."""
    rgba = np.dstack([noise(), np.full((48, 64), 77, np.uint8)])
    others = [Image.fromarray(255 - noise())] * 2
    return {
        "jpeg": saved(noise(), "JPEG"),
        "progressive jpeg": saved(noise(), "JPEG", progressive=True),
        "grey jpeg": saved(noise(), "JPEG", mode="L"),
        "cmyk jpeg": saved(noise(), "JPEG", mode="CMYK"),
        "exif jpeg": jpeg_with(oriented(6), noise()),
        "png": saved(noise(), "PNG"),
        "palette png": saved(noise(), "PNG", mode="P"),
        "alpha png": saved(rgba, "PNG"),
        "grey png": saved(noise(), "PNG", mode="L"),
        "16-bit png": png(1, 1, 16, 2, b"\0" + struct.pack(">HHH", 65535, 0x80FF, 1)),
        "animated png": saved(noise(), "PNG", save_all=True, append_images=others),
        "webp": saved(noise(), "WEBP"),
        "lossless webp": saved(noise(), "WEBP", lossless=True),
        "alpha webp": saved(rgba, "WEBP"),
        "animated webp": saved(noise(), "WEBP", lossless=True, save_all=True, append_images=others),
        "bmp": saved(noise(), "BMP"),
        "palette bmp": saved(noise(), "BMP", mode="P"),
        "1 × 1": saved(noise(1, 1), "PNG"),
    }
