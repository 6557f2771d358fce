"""Requests with images of all kinds and sizes, good and bad, and with vectors: what the clients of a face application send."""

from __future__ import annotations

import base64
import functools
import random
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import msgspec
import numpy as np

from measuring.photos import FACE, copies

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from pictures import Pixels, astronaut, chunk, noise, png, saved

OCTETS, JSON = "application/octet-stream", "application/json"
DIMENSIONS = 512


class ImageCall(NamedTuple):
    """A request and the status that it deserves."""

    path: str
    body: bytes
    content_type: str
    status: int = 200


def draw_call(draw: random.Random) -> ImageCall:
    """Draw one request, of which one in eight is bad. Most files were not seen before."""
    return draw.choice(BAD if draw.random() < 0.12 else GOOD)(draw)


@functools.cache
def _files(kind: str) -> bytes:
    """Return a file of a kind; every one of them shows the astronaut's face, but for `wall`."""
    photo = astronaut()
    makers: dict[str, Callable[[], bytes]] = {
        "photo": lambda: saved(photo, "JPEG", quality=90),
        "progressive": lambda: saved(photo, "JPEG", progressive=True),
        "cmyk": lambda: saved(photo, "JPEG", mode="CMYK"),
        "small": lambda: saved(_scaled(photo, 160), "JPEG"),
        "large": lambda: saved(_scaled(photo, 2000), "JPEG"),
        "camera": lambda: saved(_scaled(photo, 3400), "JPEG", quality=85),
        "png": lambda: saved(photo, "PNG"),
        "alpha": lambda: saved(np.dstack([photo, np.full(photo.shape[:2], 200, np.uint8)]), "PNG"),
        "webp": lambda: saved(photo, "WEBP"),
        "bmp": lambda: saved(photo, "BMP"),
        "head": lambda: saved(photo[FACE], "JPEG"),
        "wall": lambda: saved(photo[300:, :200], "JPEG"),
        "bomb": lambda: png(20_000, 20_000, 8, 2, b"\0"),
        "gif": lambda: saved(photo, "GIF"),
        "film": lambda: png(1, 1, 8, 0, b"\0\0", between=chunk(b"acTL", struct.pack(">II", 5000, 0))),
    }
    return makers[kind]()


def _scaled(photo: Pixels, side: int) -> Pixels:
    return np.asarray(cv2.resize(photo, (side, side), interpolation=cv2.INTER_LINEAR), np.uint8)


def _new(kind: str, draw: random.Random) -> bytes:
    """Return a file that was probably not sent before: JPEG with another comment, others as they are."""
    data = _files(kind)
    return copies(data, 1, draw.randrange(10**9))[0] if data[:2] == b"\xff\xd8" else data


def _raw(path: str, *kinds: str, status: int = 200) -> Callable[[random.Random], ImageCall]:
    return lambda draw: ImageCall(
        path, _new(draw.choice(kinds), draw), OCTETS if draw.random() < 0.2 else "image/jpeg", status
    )


def _json(path: str, **fields: object) -> Callable[[random.Random], ImageCall]:
    def make(draw: random.Random) -> ImageCall:
        image = base64.b64encode(_new(draw.choice(("photo", "small", "png", "webp")), draw)).decode()
        return ImageCall(path, msgspec.json.encode({"image": image, **fields}), JSON)

    return make


def _several(draw: random.Random) -> ImageCall:
    images = [base64.b64encode(_new(kind, draw)).decode() for kind in ("photo", "small", "bomb", "webp")]
    return ImageCall("/v1/faces/detect", msgspec.json.encode({"images": images}), JSON)


def _compared(draw: random.Random) -> ImageCall:
    images = [base64.b64encode(_new(kind, draw)).decode() for kind in ("photo", "small")]
    return ImageCall("/v1/faces/compare", msgspec.json.encode({"images": images}), JSON)


def _vectors(draw: random.Random) -> ImageCall:
    rows = draw.randrange(1, 1000)
    numbers = np.random.default_rng(draw.randrange(10**6)).standard_normal((rows + 1, DIMENSIONS), dtype=np.float32)
    return ImageCall("/v1/vectors/similarity", struct.pack("<III", 1, rows, DIMENSIONS) + numbers.tobytes(), OCTETS)


STEPS = [{"metadata": {}}, {"quality": {}}, {"resize": {"width": 300, "height": 300}}, {"rotate": {"angle": 12}}]
ANY_FACE = ("photo", "progressive", "cmyk", "small", "large", "png", "alpha", "webp", "bmp")

GOOD: tuple[Callable[[random.Random], ImageCall], ...] = (
    _raw("/v1/faces/detect", *ANY_FACE, "camera", "wall"),
    _raw("/v1/faces/detect", "photo", "small"),
    _raw("/v1/faces/embed", *ANY_FACE),
    _raw("/v1/faces/embed", "photo"),
    _raw("/v1/faces/embed?face=all", *ANY_FACE),
    _raw("/v1/faces/embed?aligned=true", "head", "wall"),
    _raw("/v1/images/process", *ANY_FACE),
    _json("/api/detect-face"),
    _json("/api/extract-embedding"),
    _json("/v1/images/process", operations=[*STEPS, {"convert": {"format": "webp"}}]),
    _json("/v1/images/process", operations=[{"resize": {"width": 112}}, {"normalize": {}}], return_image=False),
    _several,
    _compared,
    _vectors,
)

BAD: tuple[Callable[[random.Random], ImageCall], ...] = (
    _raw("/v1/faces/detect", "bomb", "film", status=413),
    _raw("/v1/faces/embed", "wall", status=422),
    _raw("/v1/images/process", "gif", status=415),
    lambda draw: ImageCall("/v1/faces/detect", _files("photo")[: draw.randrange(200, 50_000)], "image/jpeg", 422),
    lambda draw: ImageCall("/v1/faces/embed", noise(20, 20).tobytes(), "image/png", 422),
    lambda draw: ImageCall("/v1/vectors/similarity", draw.randbytes(64), OCTETS, 400),
    lambda draw: ImageCall("/v1/images/process", b'{"image": "http://127.0.0.1/a.png"}', JSON, 400),
)
