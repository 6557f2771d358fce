"""Damaged images, drawn from a seed: what a fuzz run sends.

A file is taken apart as its format is (JPEG segments, PNG and WebP chunks, the fields of a BMP header) and damaged once to
three times: bits, bytes and spans of it, whole parts in another order, twice or missing, sizes in headers, and checksums
put right again so that the damage gets past them.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Iterator

Mutation = Callable[[bytes, random.Random], bytes]

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
SIDES = (0, 1, 2, 7, 255, 256, 1023, 4095, 6000, 16_383, 20_000, 65_535)
"""Sizes to write into headers: none, tiny, about the bounds, far beyond them."""

WORDS = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\1")


def flip_bits(data: bytes, draw: random.Random) -> bytes:
    """Turn over one to sixteen bits."""
    out = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        out[draw.randrange(len(out))] ^= 1 << draw.randrange(8)
    return bytes(out)


def flip_early_bits(data: bytes, draw: random.Random) -> bytes:
    """Turn over bits of the first 64 bytes, where headers are."""
    return flip_bits(data[:64], draw) + data[64:]


def truncate(data: bytes, draw: random.Random) -> bytes:
    """Drop the end."""
    return data[: draw.randrange(1, len(data) + 1)]


def overwrite(data: bytes, draw: random.Random) -> bytes:
    """Put noise, or a number at the edge of its range, in place of some bytes."""
    noise = draw.choice((draw.randbytes(draw.randrange(1, 64)), draw.choice(WORDS)))
    place = draw.randrange(len(data))
    return data[:place] + noise + data[place + len(noise) :]


def cut_out(data: bytes, draw: random.Random) -> bytes:
    """Drop a span."""
    start = draw.randrange(len(data))
    return (data[:start] + data[start + draw.randrange(1, 200) :]) or b"\0"


def repeat(data: bytes, draw: random.Random) -> bytes:
    """Say a span twice, or many times."""
    start = draw.randrange(len(data))
    span = data[start : start + draw.randrange(1, 200)]
    return data[:start] + span * draw.choice((2, 2, 50)) + data[start:]


def append(data: bytes, draw: random.Random) -> bytes:
    """Put something behind the end."""
    return data + draw.choice((b"PK\3\4", b"<script>", draw.randbytes(40), data))


def rearrange(data: bytes, draw: random.Random) -> bytes:
    """Swap, repeat, drop or empty parts, with their checksums right."""
    parts = split(data)
    if len(parts) < 3:
        return flip_bits(data, draw)
    one, other = draw.randrange(1, len(parts)), draw.randrange(1, len(parts))
    what = draw.randrange(4)
    if what == 0:
        parts[one], parts[other] = parts[other], parts[one]
    elif what == 1:
        parts.insert(other, parts[one])
    elif what == 2:
        del parts[one]
    else:
        parts[one : one + 1] = [parts[one]] * draw.randrange(2, 80)
    return mended(b"".join(parts)) if draw.random() < 0.8 else b"".join(parts)


def damage_part(data: bytes, draw: random.Random) -> bytes:
    """Turn over bits within one part, and put its checksum right."""
    parts = split(data)
    which = draw.randrange(1, len(parts)) if len(parts) > 1 else 0
    part = parts[which]
    if len(part) > 12:
        parts[which] = part[:8] + flip_bits(part[8:], draw)
    return mended(b"".join(parts))


def resize_header(data: bytes, draw: random.Random) -> bytes:
    """Write another width or height, or both, where the format keeps them."""
    out = bytearray(data)
    for place, form in _sizes(data):
        if draw.random() < 0.7 and place + struct.calcsize(form) <= len(out):
            struct.pack_into(form, out, place, draw.choice(SIDES))
    return mended(bytes(out))


MUTATIONS: tuple[Mutation, ...] = (
    flip_bits, flip_bits, flip_early_bits, truncate, overwrite, cut_out, repeat, append, rearrange, rearrange, damage_part,
    damage_part, resize_header, resize_header,
)  # fmt: skip


def mutate(data: bytes, draw: random.Random) -> bytes:
    """Damage a file once to three times."""
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        data = draw.choice(MUTATIONS)(data, draw) or b"\0"
    return data


def mutants(files: list[bytes], seed: int) -> Iterator[bytes]:
    """Yield damaged files without end, the same ones for the same seed."""
    draw = random.Random(seed)
    while True:
        yield mutate(draw.choice(files), draw)


def split(data: bytes) -> list[bytes]:
    """Take a file apart: its signature or header first. What cannot be taken apart is one part."""
    if data[:2] == b"\xff\xd8":
        return list(_segments(data))
    if data[:8] == PNG_SIGNATURE:
        return list(_chunks(data, 8, ">I", 0, 12, even=False))
    if data[:4] == b"RIFF":
        return list(_chunks(data, 12, "<I", 4, 8, even=True))
    if data[:2] == b"BM":
        return [data[:14], *(data[at : at + 4] for at in range(14, 54, 4)), data[54:]]
    return [data]


def mended(data: bytes) -> bytes:
    """Put right what a format checks before it looks further: PNG's checksums, WebP's length."""
    if data[:8] == PNG_SIGNATURE:
        parts = split(data)
        summed = [
            part[:-4] + struct.pack(">I", zlib.crc32(part[4:-4])) if len(part) >= 12 else part for part in parts[1:]
        ]
        return b"".join([parts[0], *summed])
    if data[:4] == b"RIFF" and len(data) >= 12:
        return data[:4] + struct.pack("<I", len(data) - 8) + data[8:]
    return data


def _segments(data: bytes) -> Iterator[bytes]:
    yield data[:2]
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != 0xDA:
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        yield data[place:end]
        place = end
    yield data[place:]


def _chunks(data: bytes, place: int, form: str, offset: int, extra: int, *, even: bool) -> Iterator[bytes]:
    yield data[:place]
    while place + 8 <= len(data):
        (size,) = struct.unpack_from(form, data, place + offset)
        end = place + size + extra + (size % 2 if even else 0)
        yield data[place:end]
        place = end
    yield data[place:]


def _sizes(data: bytes) -> list[tuple[int, str]]:
    """Where a file keeps its width and height, and in which form."""
    if data[:8] == PNG_SIGNATURE:
        return [(16, ">I"), (20, ">I")]
    if data[:2] == b"BM":
        return [(18, "<I"), (22, "<I")]
    if data[:4] == b"RIFF":
        place = data.find(b"VP8 ")
        return [(24, "<H"), (27, "<H")] if data[12:16] == b"VP8X" else [(place + 14, "<H"), (place + 16, "<H")]
    place = next((at for kind in b"\xc0\xc2" if (at := data.find(bytes((0xFF, kind)))) > 0), 0)
    return [(place + 5, ">H"), (place + 7, ">H")] if place else []
