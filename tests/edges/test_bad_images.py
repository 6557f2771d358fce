"""Images as the world sends them, over HTTP: every kind is read as the picture that it is, or refused with a reason.

The picture is a photo with one face, so that what is read wrongly is not found. No file, however it is made, may cost
a 5xx, and none that is refused may be decoded.
"""

from __future__ import annotations

import base64
import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pictures import Pixels, astronaut, chunk, jpeg_with, noise, oriented, png, saved

DETECT, EMBED, PROCESS = "/v1/faces/detect", "/v1/faces/embed", "/v1/images/process"
FACE = (173, 73, 102, 102)
SIDE = 512
HUGE = 20_000

PHOTO = astronaut()
ALPHA = np.dstack([PHOTO, np.full((SIDE, SIDE), 255, np.uint8)])
OTHER_FRAMES = [Image.fromarray(noise(SIDE, SIDE))] * 3


def sixteen_bits(photo: Pixels) -> bytes:
    """The photo as PNG of 16 bits a channel, which Pillow cannot write."""
    high, wide = photo.shape[:2]
    rows = np.repeat(photo.reshape(high, -1), 2, axis=1)
    return png(wide, high, 16, 2, b"".join(b"\0" + row.tobytes() for row in rows))


def stored_as(photo: Pixels, orientation: int) -> Pixels:
    """What a camera held so stores: the pixels that `orientation` turns back into the photo."""
    mirrored = photo[:, ::-1]
    turned = {
        1: photo, 2: mirrored, 3: photo[::-1, ::-1], 4: photo[::-1], 5: photo.transpose(1, 0, 2),
        6: np.rot90(photo, 1), 7: np.rot90(mirrored, 3), 8: np.rot90(photo, 3),
    }[orientation]  # fmt: skip
    return np.ascontiguousarray(turned)


def text_chunk(text: bytes) -> bytes:
    return chunk(b"tEXt", b"Comment\0" + text)


def with_comment(jpeg: bytes, text: bytes) -> bytes:
    return jpeg[:2] + b"\xff\xfe" + struct.pack(">H", len(text) + 2) + text + jpeg[2:]


def zipped(content: bytes = b"hello") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("hello.txt", content)
    return out.getvalue()


JPEG = saved(PHOTO, "JPEG", quality=95)
PNG = saved(PHOTO, "PNG")
EVIL = b"<script>alert(1)</script>"

READ: dict[str, Callable[[], bytes]] = {
    "JPEG": lambda: JPEG,
    "progressive JPEG": lambda: saved(PHOTO, "JPEG", quality=95, progressive=True),
    "CMYK JPEG": lambda: saved(PHOTO, "JPEG", mode="CMYK", quality=95),
    "grey JPEG": lambda: saved(PHOTO, "JPEG", mode="L", quality=95),
    "PNG": lambda: PNG,
    "16-bit PNG": lambda: sixteen_bits(PHOTO),
    "palette PNG": lambda: saved(PHOTO, "PNG", mode="P"),
    "PNG with alpha": lambda: saved(ALPHA, "PNG"),
    "grey PNG": lambda: saved(PHOTO, "PNG", mode="L"),
    "grey PNG with alpha": lambda: saved(ALPHA, "PNG", mode="LA"),
    "animated PNG": lambda: saved(PHOTO, "PNG", save_all=True, append_images=OTHER_FRAMES),
    "WebP": lambda: saved(PHOTO, "WEBP", quality=90),
    "WebP with alpha": lambda: saved(ALPHA, "WEBP", quality=90),
    "lossless WebP": lambda: saved(PHOTO, "WEBP", lossless=True),
    "animated WebP": lambda: saved(PHOTO, "WEBP", quality=90, save_all=True, append_images=OTHER_FRAMES),
    "BMP": lambda: saved(PHOTO, "BMP"),
    "palette BMP": lambda: saved(PHOTO, "BMP", mode="P"),
    "JPEG and ZIP at once": lambda: JPEG + zipped(EVIL),
    "JPEG with HTML in a comment": lambda: with_comment(JPEG, b"<!doctype html>" + EVIL),
    "PNG with HTML in a text": lambda: PNG[:33] + text_chunk(b"<html>" + EVIL) + PNG[33:],
    "PNG with HTML behind it": lambda: PNG + b"<html>" + EVIL,
    **{f"EXIF {n}": lambda n=n: jpeg_with(oriented(n), stored_as(PHOTO, n)) for n in range(1, 9)},  # type: ignore[misc]
}


def webp_header_only(width: int, height: int) -> bytes:
    body = b"VP8L" + struct.pack("<IBI", 5, 0x2F, (width - 1) | (height - 1) << 14) + b"\0"
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def bmp_header_only(width: int, height: int) -> bytes:
    """Run-length encoded, so that the file need not have the bytes of its pixels."""
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, 2, 0, 0, 256, 0) + bytes(1024)
    return b"BM" + struct.pack("<IHHI", 14 + len(head) + 2, 0, 0, 14 + len(head)) + head + b"\0\1"


def jpeg_sized(width: int, height: int) -> bytes:
    """The photo with another size in its header."""
    place = JPEG.index(b"\xff\xc0") + 5
    return JPEG[:place] + struct.pack(">HH", height, width) + JPEG[place + 4 :]


REFUSED: dict[str, tuple[Callable[[], bytes], int, str]] = {
    "nothing": (lambda: b"", 422, "unreadable_input"),
    "JPEG cut in the middle": (lambda: JPEG[: len(JPEG) // 2], 422, "unreadable_input"),
    "JPEG without its last byte": (lambda: JPEG[:-1], 422, "unreadable_input"),
    "PNG cut in the middle": (lambda: PNG[: len(PNG) // 2], 422, "unreadable_input"),
    "PNG without its last byte": (lambda: PNG[:-1], 422, "unreadable_input"),
    "WebP cut in the middle": (lambda: READ["WebP"]()[:9000], 422, "unreadable_input"),
    "BMP cut in the middle": (lambda: READ["BMP"]()[:9000], 422, "unreadable_input"),
    "a signature alone": (lambda: PNG[:8], 422, "unreadable_input"),
    "20,000 × 20,000 PNG": (
        lambda: png(HUGE, HUGE, 1, 0, bytes((HUGE // 8 + 1) * HUGE)), 413, "too_large"),
    "20,000 × 20,000 JPEG": (lambda: jpeg_sized(HUGE, HUGE), 413, "too_large"),
    "16,384 × 16,384 WebP": (lambda: webp_header_only(16_384, 16_384), 413, "too_large"),
    "20,000 × 20,000 BMP": (lambda: bmp_header_only(HUGE, HUGE), 413, "too_large"),
    "2³¹ pixels wide": (lambda: png(2**31 - 1, 1, 8, 0, b"\0"), 413, "too_large"),
    "no pixels wide": (lambda: png(0, 1, 8, 0, b"\0"), 422, "unreadable_input"),
    "a film of 1,001 frames": (
        lambda: png(1, 1, 8, 0, b"\0\0", between=chunk(b"acTL", struct.pack(">II", 1001, 0))), 413, "too_large"),
    "animated GIF": (lambda: saved(PHOTO, "GIF", save_all=True, append_images=OTHER_FRAMES), 415, "unsupported_media_type"),
    "GIF and script at once": (lambda: b"GIF89a/*" + bytes(8) + b"*/=1;alert(1)", 415, "unsupported_media_type"),
    "TIFF": (lambda: saved(PHOTO, "TIFF"), 415, "unsupported_media_type"),
    "SVG": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>", 422, "unreadable_input"),
    "XML with an entity": (lambda: b"<?xml version='1.0'?><!DOCTYPE s [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><s>&x;</s>", 422, "unreadable_input"),
    "HTML": (lambda: b"<!DOCTYPE html><html><body>" + EVIL, 422, "unreadable_input"),
    "ZIP": (zipped, 422, "unreadable_input"),
    "ZIP with an image in it": (lambda: zipped(JPEG), 422, "unreadable_input"),
    "PDF and JPEG at once": (lambda: b"%PDF-1.4\n" + JPEG, 422, "unreadable_input"),
    "a program": (lambda: b"\x7fELF" + bytes(200), 422, "unreadable_input"),
    "noise": (lambda: np.random.default_rng(3).bytes(5000), 422, "unreadable_input"),
}  # fmt: skip


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def only_face(answer: Any) -> dict[str, Any]:
    assert answer.status == 200, answer.body
    (face,) = answer.json["faces"]
    return dict(face)


def is_near(face: dict[str, Any], box: tuple[float, ...], within: float = 12) -> bool:
    found = [face["bbox"][name] for name in ("x", "y", "width", "height")]
    return bool(np.allclose(found, box, atol=within))


@pytest.mark.parametrize("kind", READ)
def test_every_kind_that_is_read_is_the_same_picture(worker: Any, kind: str) -> None:
    """The face is where it is, upright, and gives its vector; the picture comes back without what else was in the file."""
    data = READ[kind]()
    seen = worker.post(DETECT, {"image": text(data)})
    assert is_near(only_face(seen), FACE)
    assert (seen.json["width"], seen.json["height"]) == (SIDE, SIDE)
    vector = worker.post(EMBED, {"image": text(data)})
    assert vector.status == 200, vector.body
    usual = worker.post(EMBED, {"image": text(JPEG)}).json
    assert np.linalg.norm(np.subtract(vector.json["embedding"], usual["embedding"])) < usual["threshold"] / 2
    answer = worker.post(PROCESS, {"image": text(data), "operations": [{"resize": {"width": 128}}]})
    assert answer.status == 200, answer.body
    clean = base64.b64decode(answer.json["image"])
    assert Image.open(io.BytesIO(clean)).size == (128, 128)
    assert b"script" not in clean
    assert b"Exif" not in clean
    assert b"PK\3\4" not in clean


@pytest.fixture
def nothing_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that may not be asked."""

    def refuse(*_: Any) -> None:
        raise AssertionError("what is refused by its header is not decoded")

    monkeypatch.setattr("phalanx.engines.image.decode.cv2.imdecode", refuse)


@pytest.mark.usefixtures("nothing_is_decoded")
@pytest.mark.parametrize("path", [DETECT, EMBED, PROCESS])
@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused_is_refused_by_its_header(worker: Any, kind: str, path: str) -> None:
    """In every form: base64, a data URL that says something else, the raw body under a false name."""
    make, status, code = REFUSED[kind]
    data = make()
    answers = [
        worker.post(path, {"image": text(data)}),
        worker.post(path, {"image": f"data:image/jpeg;base64,{text(data)}"}),
        worker.post(path, body=data, headers={"content-type": "image/jpeg"}),
    ]
    for answer in answers:
        assert (answer.status, answer.json["code"]) == (status, code), answer.body
        assert answer.json["detail"]


def test_a_name_is_not_believed(worker: Any) -> None:
    """A PNG that is called a JPEG, in its content type and in a form, is read as what it is."""
    for kind in ("image/jpeg", "image/svg+xml", "image/x-whatever"):
        assert is_near(only_face(worker.post(DETECT, body=PNG, headers={"content-type": kind})), FACE)
    form = b'--b\r\nContent-Disposition: form-data; name="f"; filename="../../etc/a.svg"\r\nContent-Type: text/html\r\n\r\n'
    answer = worker.post(
        DETECT, body=form + PNG + b"\r\n--b--\r\n", headers={"content-type": "multipart/form-data; boundary=b"}
    )
    assert is_near(only_face(answer), FACE)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP"])
def test_one_pixel_is_an_image_without_a_face(worker: Any, form: str) -> None:
    """Also where a face is wanted, and where it is said to be one."""
    dot = {"image": text(saved(noise(1, 1), form))}
    assert worker.post(DETECT, dot).json["faces"] == []
    assert worker.post(EMBED, dot).json["code"] == "no_face"
    assert worker.post(EMBED, {**dot, "aligned": True}).status == 200
    steps = [{"resize": {"width": 9}}, {"rotate": {"angle": 30}}, {"quality": {}}, {"metadata": {}}, {"normalize": {}}]
    assert worker.post(PROCESS, {**dot, "operations": steps}).status == 200


@pytest.mark.parametrize("size", [(4000, 1), (1, 4000), (16_000, 2), (2, 2500)])
def test_a_line_is_an_image_without_a_face(worker: Any, size: tuple[int, int]) -> None:
    line = {"image": text(saved(noise(*size), "PNG"))}
    answer = worker.post(DETECT, line)
    assert (answer.status, answer.json["faces"]) == (200, [])
    assert worker.post(EMBED, {**line, "aligned": True}).status == 200


@pytest.mark.parametrize("detector", ["auto", "full", "short"])
def test_no_face_is_no_error_but_gives_no_vector(worker: Any, detector: str) -> None:
    wall = {"image": text(saved(PHOTO[300:, :200], "JPEG")), "detector": detector}
    answer = worker.post(DETECT, wall)
    assert (answer.status, answer.json["faces"]) == (200, [])
    assert (worker.post(EMBED, wall).status, worker.post(EMBED, wall).json["code"]) == (422, "no_face")


@pytest.mark.parametrize("border", ["left", "right", "top"])
def test_a_face_cut_by_the_border_is_found_and_known_to_be_cut(worker: Any, border: str) -> None:
    """Its box reaches beyond the image; what is missing of it is black in the chip and no error."""
    part, (left, top) = {
        "left": (PHOTO[:, 195:], (195, 0)), "right": (PHOTO[:, :255], (0, 0)), "top": (PHOTO[95:], (0, 95)),
    }[border]  # fmt: skip
    cut = {"image": text(saved(part, "PNG"))}
    face = only_face(worker.post(DETECT, cut))
    assert is_near(face, (FACE[0] - left, FACE[1] - top, *FACE[2:]), within=20)
    assert face["measures"]["completeness"] < 0.95
    assert worker.post(EMBED, cut).status == 200


@pytest.mark.parametrize("turns", [1, 3])
def test_a_photo_on_its_side_has_its_face(worker: Any, turns: int) -> None:
    """Pixels that are turned by 90°, with no EXIF to say so: the roll is told, and the vector is the upright one's."""
    turned = {"image": text(saved(np.ascontiguousarray(np.rot90(PHOTO, turns)), "PNG"))}
    face = only_face(worker.post(DETECT, turned))
    assert face["roll"] == pytest.approx(-90 if turns == 1 else 90, abs=10)
    vector = worker.post(EMBED, turned).json
    upright = worker.post(EMBED, {"image": text(PNG)}).json
    assert np.linalg.norm(np.subtract(vector["embedding"], upright["embedding"])) < vector["threshold"]


def test_two_hundred_faces_come_in_one_answer(start_worker: Callable[..., Any], models_dir: Path) -> None:
    """In tiles; of the largest as many as are asked for; and all of them as vectors. However busy the machine is."""
    worker = start_worker(MODEL_DIR=str(models_dir), REQUEST_TIMEOUT="60000")
    head = np.asarray(Image.fromarray(PHOTO[49:199, 149:299]).resize((60, 60), Image.Resampling.BOX))
    wall = np.asarray(Image.fromarray(PHOTO[300:, :200]).resize((2000, 1000)), np.uint8).copy()
    for number in range(200):
        x, y = number % 20 * 100 + 20, number // 20 * 100 + 20
        wall[y : y + 60, x : x + 60] = head
    crowd = {"image": text(saved(wall, "JPEG", quality=95)), "detector": "tiled"}
    answer = worker.post(DETECT, crowd)
    assert answer.status == 200, answer.body
    middles = {
        (int(f["bbox"]["x"] + f["bbox"]["width"] / 2) // 100, int(f["bbox"]["y"] + f["bbox"]["height"] / 2) // 100)
        for f in answer.json["faces"]
    }
    assert len(middles) == len(answer.json["faces"]) == 200
    assert len(worker.post(DETECT, {**crowd, "max_faces": 7}).json["faces"]) == 7
    vectors = worker.post(EMBED, {**crowd, "face": "all"})
    assert vectors.status == 200, vectors.body
    assert len(vectors.json["faces"]) == 200


def test_a_bomb_among_good_images_has_its_own_error(worker: Any) -> None:
    """And the others their faces."""
    bomb = png(HUGE, HUGE, 8, 2, b"\0")
    assert len(bomb) < 100
    answer = worker.post(DETECT, {"images": [text(JPEG), text(bomb), text(PNG)]})
    assert answer.status == 200
    assert [item.get("error", {}).get("code") for item in answer.json["results"]] == [None, "too_large", None]


def test_pixels_that_do_not_decode_are_refused(worker: Any) -> None:
    """Headers that promise more than the compressed rows hold, or rows that are no zlib at all."""
    few = png(64, 64, 8, 2, bytes(193 * 3))
    scrambled = PNG[:60] + bytes(byte ^ 0x5A for byte in PNG[60:120]) + PNG[120:]
    body = zlib.compress(b"")
    none = b"\x89PNG\r\n\x1a\n" + PNG[8:33] + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    for data in (few, scrambled, none):
        for path in (DETECT, EMBED, PROCESS):
            assert worker.post(path, {"image": text(data)}).status in (200, 422)
    assert worker.post(PROCESS, {"image": text(few)}).status == 422
