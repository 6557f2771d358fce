"""Galleries over HTTP, in Qdrant Edge: a whole life, other organisations, scopes, bad input."""

from __future__ import annotations

import base64
import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pictures import astronaut, quarters, saved

REPOSITORY = Path(__file__).parents[2]
PHOTOS = Path(os.environ.get("PHALANX_REFERENCE", REPOSITORY.parent / "shared" / "reference")) / "faces"
LABELS = PHOTOS / "labels.json"
NUMBERS = itertools.count()

needs_photos = pytest.mark.skipif(not LABELS.is_file(), reason="no reference photos; PHALANX_REFERENCE names them")


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


PHOTO = saved(astronaut(), "JPEG", quality=92)
MIRRORED = saved(np.ascontiguousarray(astronaut()[:, ::-1]), "JPEG", quality=92)
EMPTY = saved(quarters(320, 240), "PNG")


class Gallery:
    """A collection of faces of an organisation of its own."""

    def __init__(self, worker: Any, name: str = "people") -> None:
        self.worker = worker
        self.path = f"/v1/collections/{name}"
        self.organisation = f"gallery{next(NUMBERS)}@example.org"
        self.key = worker.key(email=self.organisation)
        assert self.ask("PUT", "", {"kind": "faces"}).status == 200

    def ask(self, method: str, below: str, sent: Any = None, **rest: Any) -> Any:
        return self.worker.request(method, self.path + below, **{"json_body": sent, "key": self.key, **rest})

    def ok(self, method: str, below: str, sent: Any = None, **rest: Any) -> Any:
        answer = self.ask(method, below, sent, **rest)
        assert answer.status == 200, answer.body
        return answer.json


@pytest.fixture
def gallery(worker: Any) -> Gallery:
    return Gallery(worker)


def test_a_person_comes_is_found_and_goes(gallery: Gallery) -> None:
    made = gallery.ok("POST", "/faces", {"person_id": "eileen", "image": text(PHOTO), "metadata": {"room": 7}})
    assert (made["person_id"], made["created"], made["model"]) == ("eileen", True, "dlib-resnet-v1")
    assert made["face"]["metadata"] == {"room": 7}
    assert made["measures"]["reasons"] == []
    again = gallery.ok("POST", "/faces", {"person_id": "eileen", "image": text(PHOTO), "metadata": {"room": 7}})
    assert again == {**made, "created": False}
    found = gallery.ok("POST", "/identify", {"image": text(MIRRORED)})
    (face,) = found["faces"]
    assert face["person_id"] == "eileen"
    assert face["candidates"][0]["face_id"] == made["face"]["id"]
    assert 0 < face["candidates"][0]["score"] < found["threshold"] == 0.6
    assert found["search"]["compared"] == 1
    assert found["landmarks_estimated"] == ["left_mouth", "right_mouth"]
    assert gallery.ok("GET", "/persons") == {"persons": [{"id": "eileen", "faces": 1}], "faces": 1, "complete": True}
    assert gallery.ok("GET", "/persons/eileen") == {"id": "eileen", "count": 1, "faces": [made["face"]]}
    assert "next" not in gallery.ok("GET", "/persons/eileen?limit=1")
    assert gallery.ok("DELETE", "/persons/eileen") == {"id": "eileen", "deleted": 1}
    assert gallery.ask("GET", "/persons/eileen").status == 404
    assert gallery.ask("DELETE", "/persons/eileen").status == 404
    assert gallery.ok("POST", "/identify", {"image": text(MIRRORED)})["faces"][0]["person_id"] is None
    assert gallery.ok("GET", "/points") == {"points": []}


def test_the_body_may_be_the_image(gallery: Gallery) -> None:
    headers = {"content-type": "image/jpeg"}
    made = gallery.ok("POST", "/faces?person_id=eileen%20c&min_quality=0.6", body=PHOTO, headers=headers)
    assert (made["person_id"], made["created"]) == ("eileen c", True)
    found = gallery.ok("POST", "/identify?limit=1", body=MIRRORED, headers=headers)
    assert found["faces"][0]["person_id"] == "eileen c"


@pytest.mark.parametrize(
    ("query", "fields"),
    [("", {"name": "others"}), ("?person_id=ann", {}), ("", {"person_id": "ann"}), ("?name=others", {})],
    ids=["another gallery", "another person in the query", "two persons", "another gallery in the query"],
)
def test_a_form_does_not_say_two_things(gallery: Gallery, query: str, fields: dict[str, str]) -> None:
    """What is in front may have let the call through by its path."""
    gallery.worker.request("PUT", "/v1/collections/others", json_body={"kind": "faces"}, key=gallery.key)
    parts = [("person_id", b"eileen"), *((name, value.encode()) for name, value in fields.items())]
    body = b"".join(
        b'--b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (n.encode(), v) for n, v in parts
    )
    body += b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n%b\r\n--b--\r\n' % PHOTO
    headers = {"content-type": "multipart/form-data; boundary=b"}
    refused = gallery.ask("POST", f"/faces{query}", body=body, headers=headers)
    assert (refused.status, refused.json["code"]) == (400, "invalid_request")
    assert "twice" in refused.json["detail"]
    for name in ("people", "others"):
        answer = gallery.worker.get(f"/v1/collections/{name}/count", key=gallery.key)
        assert answer.json == {"count": 0}


@pytest.mark.parametrize("person", ["名前", "a b", "100%", "a%2Fb", "ä" * 200])
def test_a_person_may_be_called_much(gallery: Gallery, person: str) -> None:
    """Paths come to the edge decoded."""
    gallery.ok("POST", "/faces", {"person_id": person, "image": text(PHOTO)})
    assert gallery.ok("GET", "/persons")["persons"] == [{"id": person, "faces": 1}]
    assert gallery.ok("GET", f"/persons/{person}")["id"] == person
    assert gallery.ok("DELETE", f"/persons/{person}") == {"id": person, "deleted": 1}


def test_another_organisation_sees_nothing_of_it(worker: Any, gallery: Gallery) -> None:
    gallery.ok("POST", "/faces", {"person_id": "eileen", "image": text(PHOTO)})
    stranger = worker.key(email="stranger@example.org")
    for method, below, body in (
        ("POST", "/faces", {"person_id": "x", "image": text(PHOTO)}), ("POST", "/identify", {"image": text(PHOTO)}),
        ("GET", "/persons", None), ("GET", "/persons/eileen", None), ("DELETE", "/persons/eileen", None),
    ):  # fmt: skip
        answer = gallery.ask(method, below, body, key=stranger)
        assert (answer.status, answer.json["code"]) == (404, "not_found"), (method, below)
    other = Gallery(worker)
    assert other.ok("POST", "/identify", {"image": text(PHOTO)})["faces"][0]["candidates"] == []
    assert gallery.ok("GET", "/persons")["faces"] == 1


def test_the_scope_is_faces(worker: Any, gallery: Gallery) -> None:
    for scopes, status in ((("faces",), 200), (("vectors", "text", "images"), 403)):
        key = worker.key(email=gallery.organisation, scopes=scopes)
        assert gallery.ask("GET", "/persons", key=key).status == status
        assert gallery.ask("POST", "/faces", {"person_id": "a", "image": text(PHOTO)}, key=key).status == status


@pytest.mark.parametrize(
    ("below", "body", "status", "code"),
    [
        ("/faces", {"image": text(PHOTO)}, 400, "invalid_request"),
        ("/faces", {"person_id": "a"}, 400, "invalid_request"),
        ("/faces", {"person_id": "", "image": text(PHOTO)}, 400, "invalid_request"),
        ("/faces", {"person_id": " ", "image": text(PHOTO)}, 400, "invalid_request"),
        ("/faces", {"person_id": "x" * 201, "image": text(PHOTO)}, 400, "invalid_request"),
        ("/faces", {"person_id": "a/b", "image": text(PHOTO)}, 400, "invalid_request"),
        ("/faces", {"person_id": "a", "image": text(PHOTO), "face": "all"}, 400, "invalid_request"),
        ("/faces", {"person_id": "a", "image": text(PHOTO), "min_quality": 2}, 400, "invalid_request"),
        ("/faces", {"person_id": "a", "image": text(PHOTO), "age": 4}, 400, "invalid_request"),
        ("/faces", {"person_id": "a", "image": text(PHOTO), "metadata": [1]}, 400, "invalid_request"),
        ("/faces", {"person_id": "a", "image": text(PHOTO), "metadata": {"a": "x" * 20_000}}, 413, "too_large"),
        ("/faces", {"person_id": "a", "image": text(EMPTY)}, 422, "no_face"),
        ("/faces", {"person_id": "a", "image": "eA=="}, 422, "unreadable_input"),
        ("/faces", {"person_id": "a", "image": text(PHOTO), "min_quality": 1}, 422, "low_quality"),
        ("/faces", {"person_id": "a", "images": [text(EMPTY)] * 33}, 400, "invalid_request"),
        ("/identify", {"image": text(EMPTY)}, 422, "no_face"),
        ("/identify", {"image": text(PHOTO), "limit": 0}, 400, "invalid_request"),
        ("/identify", {"image": text(PHOTO), "limit": 101}, 400, "invalid_request"),
        ("/identify", {"image": text(PHOTO), "filter": {"must": [{"key": "a"}]}}, 400, "invalid_request"),
        ("/identify", {"image": text(PHOTO), "face": 3}, 400, "invalid_request"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_and_stores_nothing(
    gallery: Gallery, below: str, body: Any, status: int, code: str
) -> None:
    answer = gallery.ask("POST", below, body)
    assert (answer.status, answer.json["code"]) == (status, code), answer.body
    assert gallery.ok("GET", "/persons")["faces"] == 0


def test_a_picture_of_two_and_one_of_little_use(gallery: Gallery) -> None:
    pair = saved(np.hstack([astronaut(), astronaut()[:, ::-1]]), "JPEG")
    answer = gallery.ask("POST", "/faces", {"person_id": "a", "image": text(pair), "face": "only"})
    assert (answer.status, answer.json["code"]) == (422, "several_faces")
    small = saved(astronaut()[::8, ::8], "PNG")
    answer = gallery.ask("POST", "/faces", {"person_id": "a", "image": text(small)})
    assert (answer.status, answer.json["code"]) in ((422, "low_quality"), (422, "no_face"))
    dark = saved((astronaut() // 12).astype(np.uint8), "PNG")
    answer = gallery.ask("POST", "/faces", {"person_id": "a", "image": text(dark)})
    assert (answer.status, answer.json["code"]) == (422, "low_quality")
    assert "dark" in answer.json["detail"]
    assert gallery.ok("POST", "/faces", {"person_id": "a", "image": text(dark), "min_quality": 0})["created"] is True


def test_collections_of_other_kinds_and_none(worker: Any, gallery: Gallery) -> None:
    body = {"kind": "vectors", "dimensions": 128, "metric": "euclidean"}
    assert worker.request("PUT", "/v1/collections/numbers", json_body=body, key=gallery.key).status == 200
    for name, status, code in (
        ("numbers", 409, "conflict"),
        ("nobody", 404, "not_found"),
        ("NO!", 400, "invalid_request"),
    ):
        path = f"/v1/collections/{name}"
        one = worker.post(f"{path}/faces", {"person_id": "a", "image": text(PHOTO)}, key=gallery.key)
        two = worker.get(f"{path}/persons", key=gallery.key)
        assert [(a.status, a.json["code"]) for a in (one, two)] == [(status, code)] * 2, (one.body, two.body)
    vector = {"points": [{"vector": [0.0] * 128}]}
    assert gallery.ask("POST", "/points", vector).status == 409


def test_images_are_billed_when_they_are_enrolled(worker: Any, gallery: Gallery) -> None:
    before = worker.totals(gallery.organisation)
    answer = gallery.ok("POST", "/faces", {"person_id": "a", "images": [text(PHOTO), text(EMPTY), text(MIRRORED)]})
    assert [result.get("error", {}).get("code") for result in answer["results"]] == [None, "no_face", None]
    after = worker.totals(gallery.organisation)
    assert after.units - before.units == 2
    assert gallery.ok("GET", "/persons")["persons"] == [{"id": "a", "faces": 2}]


def test_an_idempotency_key_repeats_the_answer(gallery: Gallery) -> None:
    body = {"person_id": "a", "image": text(PHOTO)}
    first, second = (gallery.ok("POST", "/faces", body, headers={"idempotency-key": "once"}) for _ in range(2))
    assert first == second
    assert first["created"] is True


@needs_photos
def test_the_photos_of_known_people(gallery: Gallery) -> None:
    """One photo of each is enrolled, all others are told; whom the labels do not name is nobody's, and further right."""
    labels: dict[str, list[str]] = json.loads(LABELS.read_text())["faces"]
    also_visible = json.loads(LABELS.read_text())["also_visible"]
    for name, people in sorted(labels.items(), reverse=True):
        known = {person["id"] for person in gallery.ok("GET", "/persons")["persons"]}
        if len(people) == 1 and people[0] not in known:
            gallery.ok("POST", "/faces", {"person_id": people[0], "image": text((PHOTOS / name).read_bytes())})
    for name, people in labels.items():
        faces = gallery.ok("POST", "/identify", {"image": text((PHOTOS / name).read_bytes()), "face": "all"})["faces"]
        found = [face["person_id"] for face in faces]
        assert found in ([people, [*people, None]] if name in also_visible else [people]), name
