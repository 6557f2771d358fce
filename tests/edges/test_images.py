"""Images over HTTP: every way to send one, every way to be answered."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np
import pytest

from phalanx.engines.image.header import read_header
from phalanx.operations.images import DOT

PATH = "/v1/images/process"


def picture(width: int = 40, height: int = 20, form: str = ".png") -> bytes:
    """A picture whose left half is red and right half blue."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2] = (0, 0, 255)
    pixels[:, width // 2 :] = (255, 0, 0)
    return cv2.imencode(form, pixels)[1].tobytes()


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def size(data: bytes) -> tuple[int, int]:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    return pixels.shape[1], pixels.shape[0]


HALF = [{"resize": {"width": 20}}]


def form(*parts: tuple[str, bytes]) -> bytes:
    body = b""
    for name, content in parts:
        file = b'; filename="a.jpg"' if name == "file" else b""
        body += b'--b\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n' % (name.encode(), file, content)
    return body + b"--b--\r\n"


def sent(worker: Any, how: str, path: str = PATH, **rest: Any) -> Any:
    """Send the picture to be halved."""
    operations = json.dumps(HALF)
    if how == "base64":
        return worker.post(path, {"image": text(picture()), "operations": HALF}, **rest)
    if how == "data URL":
        return worker.post(path, {"image": f"data:image/png;base64,{text(picture())}", "operations": HALF}, **rest)
    headers = {**rest.pop("headers", {})}
    if how == "raw":
        headers["content-type"] = "image/x-whatever"
        return worker.post(f"{path}?operations={quote(operations)}", body=picture(), headers=headers, **rest)
    headers["content-type"] = "multipart/form-data; boundary=b"
    body = form(("operations", operations.encode()), ("file", picture()))
    return worker.post(path, body=body, headers=headers, **rest)


@pytest.mark.parametrize("path", [PATH, "/api/process-image"])
@pytest.mark.parametrize("how", ["base64", "data URL", "raw", "form"])
def test_an_image_may_be_sent_in_every_form(worker: Any, how: str, path: str) -> None:
    """The answer is the same, in the format that came."""
    answer = sent(worker, how, path)
    assert answer.status == 200, answer.body
    assert (answer.json["format"], answer.json["width"], answer.json["height"]) == ("png", 20, 10)
    assert size(base64.b64decode(answer.json["image"])) == (20, 10)


@pytest.mark.parametrize("path", [PATH, "/api/process-image"])
def test_who_accepts_an_image_gets_its_bytes(worker: Any, path: str) -> None:
    """With the content type that `convert` chose; a failure stays a problem."""
    request = {"image": text(picture()), "operations": [{"convert": {"format": "webp"}}]}
    answer = worker.post(path, request, headers={"accept": "image/*"})
    assert answer.headers["content-type"] == "image/webp"
    assert answer.body[:4] == b"RIFF"
    assert size(answer.body) == (40, 20)
    failed = worker.post(path, {"image": "AAAA"}, headers={"accept": "image/*"})
    assert failed.status == 422
    assert "json" in failed.headers["content-type"]


@pytest.mark.parametrize("path", [PATH, "/api/process-image"])
@pytest.mark.parametrize(
    ("accept", "operations", "given"),
    [
        ("image/webp", [], "webp"),
        ("image/jpeg", HALF, "jpeg"),
        ("Image/PNG;q=0.9, */*;q=0.1", HALF, "png"),
        ("image/webp", [{"convert": {"format": "jpeg"}}], "jpeg"),
        ("image/jpeg, image/webp", HALF, "png"),
        ("image/webp, image/*", HALF, "png"),
        ("image/avif", HALF, "png"),
    ],
    ids=["one", "with steps", "with qualities", "convert says", "several", "any", "not written"],
)
def test_an_image_comes_in_the_one_format_that_is_accepted(
    worker: Any, path: str, accept: str, operations: list[Any], given: str
) -> None:
    """Where `convert` says nothing; where several are accepted, the format stays."""
    answer = worker.post(path, {"image": text(picture()), "operations": operations}, headers={"accept": accept})
    assert (answer.status, answer.headers["content-type"]) == (200, f"image/{given}")
    assert read_header(answer.body, max_pixels=10_000).format == given


@pytest.mark.parametrize("path", [PATH, "/api/process-image"])
@pytest.mark.parametrize(
    "kept", [slice(-7), slice(-3), slice(60)], ids=["no last boundary", "its dashes", "all but a head"]
)
def test_a_form_that_breaks_off_is_refused(worker: Any, path: str, kept: slice) -> None:
    """What stands last would be left out, and nobody told."""
    body = form(("file", picture()), ("operations", json.dumps(HALF).encode()))[kept]
    answer = worker.post(path, body=body, headers={"content-type": "multipart/form-data; boundary=b"})
    assert answer.status == 400, answer.body
    assert b"the form cannot be read" in answer.body


@pytest.mark.parametrize("path", [PATH, "/api/process-image"])
def test_another_content_type_is_told_that_the_body_may_be_the_image(worker: Any, path: str) -> None:
    answer = worker.post(path, body=picture(), headers={"content-type": "text/plain"})
    assert answer.status == 415
    assert b"text/plain; send application/json or an image, raw or as multipart/form-data" in answer.body


@pytest.mark.parametrize("path", [PATH, "/api/process-image"])
def test_a_key_repeats_no_image_in_another_format(worker: Any, path: str) -> None:
    """What was accepted is part of a request; the first is repeated in its own."""
    request = {"image": text(picture()), "operations": HALF}
    key = {"idempotency-key": f"formats {path}"}
    first = worker.post(path, request, headers={**key, "accept": "image/webp"})
    again = worker.post(path, request, headers={**key, "accept": "image/webp"})
    other = worker.post(path, request, headers={**key, "accept": "image/jpeg"})
    assert (first.status, again.status, again.headers.get("idempotency-replayed")) == (200, 200, "true")
    assert again.body == first.body
    assert (other.status, b"was used for another request" in other.body) == (422, True)


@pytest.mark.parametrize(
    "request_", [{"images": [DOT]}, {"image": DOT, "return_image": False}], ids=["several", "none"]
)
def test_where_no_image_is_the_answer_accept_changes_nothing(worker: Any, request_: dict[str, Any]) -> None:
    """It is JSON, in which images have the format that they had."""
    answer = worker.post(PATH, request_, headers={"accept": "image/webp"})
    assert answer.status == 200
    assert answer.json.get("results", [answer.json])[0]["format"] == "png"


@pytest.mark.parametrize("accept", ["*/*", "application/json", "application/json, image/png", "text/html, image/webp"])
def test_others_get_json(worker: Any, accept: str) -> None:
    """A browser's list of everything is no wish for an image."""
    assert sent(worker, "base64", headers={"accept": accept}).json["width"] == 20


def test_each_of_several_has_its_own_error(worker: Any) -> None:
    """In order, and what worked is billed."""
    before = worker.totals("ann@example.org").units
    answer = worker.post(PATH, {"images": [text(picture()), "AAAA", 7], "operations": HALF})
    assert answer.status == 200
    first, second, third = answer.json["results"]
    assert first["width"] == 20
    assert second == {"error": {"code": "unreadable_input", "detail": second["error"]["detail"]}}
    assert third["error"]["code"] == "invalid_request"
    assert worker.totals("ann@example.org").units - before == 1


def test_reports_come_without_the_image_when_it_is_not_wanted(worker: Any) -> None:
    """Quality, metadata and a tensor of the image as it is at their step."""
    steps: list[dict[str, Any]] = [{"metadata": {}}, {"quality": {}}, {"resize": {"width": 4}}, {"normalize": {}}]
    answer = worker.post(PATH, {"image": text(picture()), "operations": steps, "return_image": False}).json
    assert "image" not in answer
    assert answer["metadata"] == {
        "format": "png", "width": 40, "height": 20, "orientation": 1, "bits": 8, "has_alpha": False, "frames": 1,
        "size_bytes": len(picture()),
    }  # fmt: skip
    assert answer["quality"]["size"]["value"] == 20
    assert (answer["tensor"]["shape"], answer["tensor"]["layout"]) == ([3, 2, 4], "chw")
    numbers = np.frombuffer(base64.b64decode(answer["tensor"]["data"]), "<f4").reshape(3, 2, 4)
    assert numbers[:, 0, 0].tolist() == [1, 0, 0]
    assert numbers[:, 0, 3].tolist() == [0, 0, 1]


BAD: list[tuple[str, dict[str, Any], int, str]] = [
    ("no image", {}, 400, "invalid_request"),
    ("both", {"image": "AAAA", "images": ["AAAA"]}, 400, "invalid_request"),
    ("none of several", {"images": []}, 400, "invalid_request"),
    ("33 images", {"images": ["AAAA"] * 33}, 400, "invalid_request"),
    ("a number", {"image": 7}, 400, "invalid_request"),
    ("no base64", {"image": "not base64!"}, 422, "unreadable_input"),
    ("letters of another script", {"image": "ЖЖЖЖ"}, 422, "unreadable_input"),
    ("a data URL without base64", {"image": "data:image/png,abc"}, 400, "invalid_request"),
    ("another scheme", {"image": "file:///etc/passwd"}, 400, "invalid_request"),
    ("a host that is not allowed", {"image": "http://example.org/a.png"}, 400, "invalid_request"),
    ("loopback", {"image": "http://127.0.0.1/a.png"}, 400, "invalid_request"),
    ("SVG", {"image": text(b"<svg xmlns='http://www.w3.org/2000/svg'/>")}, 422, "unreadable_input"),
    ("GIF", {"image": text(b"GIF89a" + bytes(32))}, 415, "unsupported_media_type"),
    ("truncated", {"image": text(picture()[:-30])}, 422, "unreadable_input"),
    ("two things at once", {"operations": [{"quality": {}, "metadata": {}}]}, 400, "invalid_request"),
    ("nothing at all", {"operations": [{}]}, 400, "invalid_request"),
    ("an unknown operation", {"operations": [{"sepia": {}}]}, 400, "invalid_request"),
    ("no size", {"operations": [{"resize": {}}]}, 400, "invalid_request"),
    ("crop beyond", {"operations": [{"crop": {"x": 30, "y": 0, "width": 20, "height": 20}}]}, 400, "invalid_request"),
    ("a huge picture", {"operations": [{"resize": {"width": 16000, "height": 16000, "mode": "exact"}}]}, 413, "too_large"),
    ("a huge tensor", {"operations": [{"resize": {"width": 2000}}, {"normalize": {}}]}, 400, "invalid_request"),
    ("17 operations", {"operations": [{"quality": {}}] * 17}, 400, "invalid_request"),
    ("BMP out", {"operations": [{"convert": {"format": "bmp"}}]}, 400, "invalid_request"),
    ("not a number", {"operations": [{"rotate": {"angle": "north"}}]}, 400, "invalid_request"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "status", "code"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_requests_are_refused(worker: Any, fields: dict[str, Any], status: int, code: str) -> None:
    """With a code of the table, and a sentence."""
    request = fields if not fields or "image" in fields or "images" in fields else {"image": text(picture()), **fields}
    answer = worker.post(PATH, request)
    assert (answer.status, answer.json["code"]) == (status, code), answer.body


def test_operations_that_are_no_json_are_refused(worker: Any) -> None:
    """In a query they are JSON."""
    for operations in ("resize", "[{", "%ff"):
        answer = worker.post(f"{PATH}?operations={operations}", body=picture(), headers={"content-type": "image/png"})
        assert answer.status == 400, operations


def test_the_dialect_words_errors_its_own_way(worker: Any) -> None:
    """aurum's envelope; what it does not know it ignores."""
    answer = worker.post("/api/process-image", {"image": "AAAA", "colour": "red"})
    assert answer.status == 422
    assert answer.json["error"]["code"] == "unreadable_input"
