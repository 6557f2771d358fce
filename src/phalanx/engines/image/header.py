"""What an image says of itself, read from its first bytes and without decoding it.

The format is told by signature, never by a name or a content type. Sources: ITU-T T.81 (JPEG), W3C PNG third edition,
RFC 9649 (WebP), Microsoft's BITMAPINFOHEADER (BMP).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from phalanx.engines.image.exif import orientation_of
from phalanx.errors import TooLarge, UnreadableInput, UnsupportedMediaType

Format = Literal["jpeg", "png", "webp", "bmp"]
ALLOWED = "JPEG, PNG, WebP and BMP are read"

MAX_FRAMES = 1000
"""Of an animation only the first frame is used; one with more frames than this is refused."""

MAX_CHUNKS = 100_000
MAX_SEGMENTS = 4096
"""Segments of a JPEG before its first scan: 10 MB of metadata have about 160. As many take a few milliseconds to read."""

FILL = re.compile(rb"\xff+")
MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""What ends a scan: anything but a byte of its own or the mark of a restart (ITU-T T.81, B.1.1.5)."""
MAX_SCANS = 64
"""Scans of a progressive JPEG: encoders write about ten, and each is a pass over all pixels for the decoder."""

OTHERS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"GIF8", "GIF"), (0, b"II*\0", "TIFF"), (0, b"MM\0*", "TIFF"), (4, b"ftypavi", "AVIF"), (4, b"ftyphe", "HEIC"),
    (4, b"ftypmif1", "HEIF"), (4, b"ftypmsf1", "HEIF"), (0, b"\0\0\x01\0", "ICO"), (0, b"\xff\x0a", "JPEG XL"), (4, b"JXL ", "JPEG XL"),
    (4, b"jP  ", "JPEG 2000"), (0, b"8BPS", "Photoshop"),
)  # fmt: skip
"""Image formats that are told apart in order to refuse them by name: offset, signature, name."""

STRANGERS: tuple[tuple[bytes, str], ...] = (
    (b"%PDF", "a PDF document"), (b"PK\x03\x04", "a ZIP archive"), (b"\x1f\x8b", "gzip data"),
    (b"<svg", "an SVG drawing"), (b"<?xml", "XML"), (b"<!doctype", "HTML"), (b"<html", "HTML"), (b"{", "JSON"),
)  # fmt: skip


Spans = tuple[tuple[int, int], ...]
"""Parts of a file: where each begins and ends."""


class Header(NamedTuple):
    """What is known before decoding. `width` and `height` are as stored, before the orientation turns them.

    `bits` are those of one channel as stored; `frames` is 1 but for animations, `scans` but for progressive JPEG.
    `transparent_grey` is the level, as stored, that a grey PNG has for what is transparent.
    `channels` are those of colour as stored, alpha apart: 1 is grey, 4 CMYK; `profile` is where its ICC profile lies, in parts,
    in PNG compressed. Both are of use to `engines.image.colour`.
    """

    format: Format
    width: int
    height: int
    bits: int = 8
    has_alpha: bool = False
    frames: int = 1
    orientation: int = 1
    scans: int = 1
    transparent_grey: int | None = None
    channels: int = 3
    profile: Spans = ()

    @property
    def is_turned(self) -> bool:
        """Whether width and height change places when the image is put upright."""
        return self.orientation >= 5

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height of the upright image."""
        return (self.height, self.width) if self.is_turned else (self.width, self.height)


def read_header(data: bytes, *, max_pixels: int) -> Header:
    """Read the header of an image, and refuse what must not be decoded.

    Raises `UnsupportedMediaType` for another image format, `UnreadableInput` for what is no image, truncated or broken,
    `TooLarge` for more than `max_pixels` or `MAX_FRAMES`.
    """
    if not data:
        raise UnreadableInput(f"the image is empty; {ALLOWED}", param="image")
    parse = _parser(data)
    try:
        header = parse(data)
    except (struct.error, IndexError):
        raise broken("it ends within its header") from None
    if header.width < 1 or header.height < 1:
        raise broken(f"its size is {header.width} × {header.height}")
    if header.width * header.height > max_pixels:
        raise TooLarge(
            f"the image has {header.width} × {header.height} = {header.width * header.height} pixels, {max_pixels} are allowed",
            param="image",
        )
    if header.frames > MAX_FRAMES:
        raise TooLarge(f"the image has {header.frames} frames, {MAX_FRAMES} are allowed", param="image")
    return header


def broken(what: str) -> UnreadableInput:
    """Word why an image cannot be read."""
    return UnreadableInput(f"the image cannot be read: {what}", param="image")


def _parser(data: bytes) -> Callable[[bytes], Header]:
    if data[:3] == b"\xff\xd8\xff":
        return _jpeg
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return _png
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp
    if data[:2] == b"BM":
        return _bmp
    for offset, signature, name in OTHERS:
        if data.startswith(signature, offset):
            raise UnsupportedMediaType(f"the image is {name}; {ALLOWED}", param="image")
    start = data[:256].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    found = next((name for signature, name in STRANGERS if start.startswith(signature.lower())), None)
    what = f"what was sent is {found}" if found else "what was sent has the signature of no image"
    raise UnreadableInput(f"{what}; {ALLOWED}", param="image")


def _jpeg(data: bytes) -> Header:
    frame: tuple[int, int, int] | None = None
    orientation = 0
    profile: list[tuple[int, int, int, int]] = []
    place = 2
    for _ in range(MAX_SEGMENTS):
        if data[place] != 0xFF:
            raise broken("a JPEG marker is missing")
        filled = FILL.match(data, place)
        place = filled.end() if filled else place
        marker = data[place]
        (length,) = struct.unpack_from(">H", data, place + 1)
        if marker == 0 or marker == 0xD9 or length < 2:
            raise broken("a JPEG segment is malformed")
        body = place + 3
        if marker == 0xE1 and data[body : body + 6] == b"Exif\0\0" and not orientation:
            orientation = orientation_of(data[body : place + 1 + length])
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            bits, height, width, channels = struct.unpack_from(">BHHB", data, body)
            if frame is not None or bits != 8:
                raise broken("it has two frames" if frame else f"JPEG of {bits} bits a channel is not read")
            frame = (width, height, channels)
        elif marker == 0xE2 and data[body : body + 12] == b"ICC_PROFILE\0":
            profile.append((data[body + 12], data[body + 13], body + 14, place + 1 + length))
        elif marker == 0xDA:
            break
        place += 1 + length
    else:
        raise broken(f"it has more than {MAX_SEGMENTS} segments before its first scan")
    if frame is None:
        raise broken("its scan comes before its frame")
    width, height, channels = frame
    return Header(
        "jpeg", width, height, orientation=orientation or 1, scans=_scans(data, place + 1 + length), channels=channels,
        profile=_joined(profile),
    )  # fmt: skip


def _scans(data: bytes, place: int) -> int:
    """Return how many scans a JPEG has up to its end, given where the first one's bytes begin.

    Behind its end phones put a film, in which any bytes may be found.
    """
    scans = 1
    for _ in range(MAX_SEGMENTS):
        found = MARKER.search(data, place)
        if found is None:
            raise broken("it is truncated: the end marker is missing")
        place = found.end()
        marker = data[place - 1]
        if marker == 0xD9:
            return scans
        scans += marker == 0xDA
        if scans > MAX_SCANS:
            raise broken(f"it has more than {MAX_SCANS} scans")
        if marker >= 0xC0:
            place += struct.unpack_from(">H", data, place)[0]
    raise broken(f"it has more than {MAX_SEGMENTS} segments")


def _joined(parts: list[tuple[int, int, int, int]]) -> Spans:
    """Return where a JPEG's profile lies of number, count, start and end of each part (ICC.1, annex B.4); () unless all are there."""
    parts.sort()
    if [part[:2] for part in parts] != [(number, len(parts)) for number in range(1, len(parts) + 1)]:
        return ()
    return tuple((start, end) for _, _, start, end in parts)


PNG_BITS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""Bits a channel that PNG allows by colour type."""


def _png(data: bytes) -> Header:
    length, kind, width, height, bits, colour = struct.unpack_from(">I4sIIBB", data, 8)
    if length != 13 or kind != b"IHDR" or bits not in PNG_BITS.get(colour, ()):
        raise broken("its PNG header is malformed")
    if max(width, height) >= 2**31:
        raise broken(f"its size is {width} × {height}")
    has_alpha, frames, orientation, has_pixels = colour in (4, 6), 1, 1, False
    transparent_grey: int | None = None
    profile: Spans = ()
    for kind, start, size in _chunks(data, 8, ">I4s", extra=4):
        if kind == b"tRNS":
            has_alpha = True
            if colour == 0:
                (transparent_grey,) = struct.unpack_from(">H", data, start)
        elif kind == b"acTL":
            frames = max(1, *struct.unpack_from(">I", data, start))
        elif kind == b"eXIf":
            orientation = orientation_of(data[start : start + size])
        elif kind == b"iCCP":
            profile = ((start, start + size),)
        elif kind == b"IDAT":
            has_pixels = True
        elif kind == b"IEND":
            break
    else:
        raise broken("it is truncated: the end chunk is missing")
    if not has_pixels:
        raise broken("it has no pixels")
    return Header(
        "png", width, height, bits, has_alpha, frames, orientation, transparent_grey=transparent_grey,
        channels=1 if colour in (0, 4) else 3, profile=profile,
    )  # fmt: skip


PNG_PIXELS = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"))
PNG_ONCE = frozenset((b"PLTE", b"tRNS"))


def png_pixels(data: bytes) -> bytes:
    """Return a PNG that was read already with nothing but its pixels, of an animation those that show where none plays.

    The decoder writes a line to the log for each chunk of any other kind that is malformed, and a file may have 100,000.
    """
    view, seen = memoryview(data), set()
    kept = [view[:8]]
    for kind, start, size in _chunks(data, 8, ">I4s", extra=4):
        if kind in PNG_PIXELS and not (kind in PNG_ONCE and kind in seen):
            kept.append(view[start - 8 : start + size + 4])
        seen.add(kind)
        if kind == b"IEND":
            break
    return b"".join(kept)


def _chunks(data: bytes, place: int, form: str, *, extra: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start and size of each chunk that lies wholly within the data; `extra` bytes follow its content."""
    for _ in range(MAX_CHUNKS):
        if place + 8 > len(data):
            return
        first, second = struct.unpack_from(form, data, place)
        kind, size = (second, first) if isinstance(first, int) else (first, second)
        if place + 8 + size + extra > len(data):
            raise broken("it is truncated: a chunk reaches beyond its end")
        yield kind, place + 8, size
        # RIFF pads chunks to even sizes, PNG does not; its checksum is the extra.
        place += 8 + size + (extra or size % 2)
    raise broken(f"it has more than {MAX_CHUNKS} chunks")


WEBP_ALPHA, WEBP_ANIMATED = 0x10, 0x02
"""Flags of an extended WebP: some frame has transparency, there are several (RFC 9649 §2.7.1)."""

WEBP_FIRST = 20
"""Where the first chunk's content begins. What extends a WebP comes first; elsewhere the decoder skips it."""


def _webp(data: bytes) -> Header:
    (size,) = struct.unpack_from("<I", data, 4)
    if size + 8 > len(data):
        raise broken(f"it is truncated: its header promises {size + 8} bytes, it has {len(data)}")
    canvas: tuple[int, int] | None = None
    stored: tuple[int, int, bool] | None = None
    frames, orientation, flags = 0, 1, 0
    profile: Spans = ()
    for kind, start, length in _chunks(data[: size + 8], 12, "<4sI", extra=0):
        if kind == b"VP8X" and start == WEBP_FIRST:
            flags = data[start]
            canvas = (_u24(data, start + 4) + 1, _u24(data, start + 7) + 1)
        elif kind in (b"VP8 ", b"VP8L") and stored is None:
            stored = _vp8(data, start) if kind == b"VP8 " else _vp8l(data, start)
        elif kind == b"ANMF":
            frames += 1
        elif kind == b"EXIF":
            orientation = orientation_of(data[start : start + length])
        elif kind == b"ICCP":
            profile = ((start, start + length),)
    if flags & WEBP_ANIMATED and canvas and frames:
        width, height = canvas
    elif stored is None:
        raise broken("it has no pixels")
    else:
        width, height, _ = stored
        if canvas and canvas != (width, height):
            raise broken(f"its frame has {width} × {height} pixels, its header says {canvas[0]} × {canvas[1]}")
    has_alpha = bool(flags & WEBP_ALPHA or (stored and stored[2]))
    return Header(
        "webp", width, height, has_alpha=has_alpha, frames=max(1, frames), orientation=orientation, profile=profile
    )


def _u24(data: bytes, place: int) -> int:
    return int.from_bytes(data[place : place + 3], "little")


def _vp8(data: bytes, start: int) -> tuple[int, int, bool]:
    if data[start] & 1 or data[start + 3 : start + 6] != b"\x9d\x01\x2a":
        raise broken("its WebP frame is malformed")
    width, height = struct.unpack_from("<HH", data, start + 6)
    return width & 0x3FFF, height & 0x3FFF, False


def _vp8l(data: bytes, start: int) -> tuple[int, int, bool]:
    if data[start] != 0x2F:
        raise broken("its WebP frame is malformed")
    (packed,) = struct.unpack_from("<I", data, start + 1)
    return (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1, bool(packed >> 28 & 1)


BMP_MASKS = {16: ((0x7C00, 0x3E0, 0x1F), (0xF800, 0x7E0, 0x1F)), 32: ((0xFF0000, 0xFF00, 0xFF),)}
"""Where red, green and blue are said to lie (`BI_BITFIELDS`), by the bits of a pixel: the decoder reads them so, whatever a file says."""


def _bmp(data: bytes) -> Header:
    offset, length = struct.unpack_from("<II", data, 10)
    if length == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = 0
    elif 40 <= length <= 124:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    else:
        raise broken(f"a BMP header of {length} bytes is not known")
    if (
        bits not in (1, 4, 8, 16, 24, 32)
        or compression not in (0, 1, 2, 3)
        or (compression == 3 and bits not in BMP_MASKS)
    ):
        raise broken(f"BMP of {bits} bits with compression {compression} is not read")
    has_alpha = False
    if compression == 3:
        if struct.unpack_from("<III", data, 54) not in BMP_MASKS[bits]:
            raise broken("its channels lie in another order than blue, green, red")
        has_alpha = bits == 32 and length >= 56 and struct.unpack_from("<I", data, 66) == (0xFF000000,)
    height = abs(height)
    needed = offset + (width * bits + 31) // 32 * 4 * height
    if width > 0 and compression in (0, 3) and needed > len(data):
        raise broken(f"it is truncated: its header promises {needed} bytes, it has {len(data)}")
    return Header("bmp", width, height, has_alpha=has_alpha)
