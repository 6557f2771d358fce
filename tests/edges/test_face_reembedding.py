"""Galleries that move to another network, given their images: over HTTP, both networks serving, nobody noticing."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from face_graphs import write_graph
from phalanx.cli.root import app
from pictures import astronaut, quarters, saved

NUMBERS = itertools.count()
ARCFACE = "colour-means"


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


EILEEN = saved(astronaut(), "JPEG", quality=92)
MIRRORED = saved(np.ascontiguousarray(astronaut()[:, ::-1]), "JPEG", quality=92)
BLUE = saved(np.ascontiguousarray(astronaut()[:, :, ::-1]), "JPEG", quality=92)
TWO = saved(np.hstack([astronaut(), astronaut()[:, ::-1]]), "JPEG", quality=92)
NOBODY = saved(quarters(320, 240), "PNG")


@pytest.fixture(scope="module")
def own(start_worker: Callable[..., Any], models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A worker with dlib's network and another of three dimensions."""
    folder = tmp_path_factory.mktemp("two-networks")
    models = folder / "models"
    models.mkdir()
    for name in ("blazeface-full-range", "blazeface-short-range", "dlib-resnet-v1"):
        (models / name).symlink_to(models_dir / name)
    words = ["models", "--model-dir", str(models), "add", ARCFACE, "--licence", "MIT", "--threshold", "0.9999"]
    graph = write_graph(folder / "arcface.onnx")
    assert CliRunner().invoke(app, [*words, "--file", str(graph)]).exit_code == 0
    return start_worker(MODEL_DIR=str(models), RATE_LIMIT_BURST="1000000")


class Gallery:
    """A gallery of an organisation of its own."""

    def __init__(self, worker: Any) -> None:
        self.worker = worker
        self.path = "/v1/collections/staff"
        self.key = worker.key(email=f"mover{next(NUMBERS)}@example.org")
        self.ok("PUT", "", {"kind": "faces"})

    def ask(self, method: str, below: str, sent: Any = None, **rest: Any) -> Any:
        return self.worker.request(method, self.path + below, **{"json_body": sent, "key": self.key, **rest})

    def ok(self, method: str, below: str, sent: Any = None, **rest: Any) -> Any:
        answer = self.ask(method, below, sent, **rest)
        assert answer.status == 200, answer.body
        return answer.json

    def enrol(self, person: str, image: bytes, **rest: Any) -> Any:
        return self.ok("POST", "/faces", {"person_id": person, "image": text(image), **rest})

    def move(self, images: str | None = "coming", model: str = ARCFACE, **rest: Any) -> Any:
        return self.ok("POST", "/reembed", {"model": model, "images": images, **rest})

    def bring(self, image: bytes) -> Any:
        return self.ok("POST", "/faces/reembed", {"image": text(image)})

    def who(self, image: bytes) -> Any:
        return self.ok("POST", "/identify", {"image": text(image), "face": "largest"})

    def persons(self) -> dict[str, int]:
        return {one["id"]: one["faces"] for one in self.ok("GET", "/persons")["persons"]}

    def state(self) -> tuple[str, int, int]:
        view = self.ok("GET", "/reembed")
        return view["state"], view["moved"], view["points"]


@pytest.fixture
def gallery(own: Any) -> Gallery:
    return Gallery(own)


def test_a_gallery_moves_and_answers_all_the_while(gallery: Gallery) -> None:
    """Persons, metadata and times stay; vectors, contract and threshold are the next network's; ids those of enrolling."""
    first = gallery.enrol("eileen", EILEEN, metadata={"room": 7})["face"]
    gallery.enrol("mirrored", MIRRORED)
    begun = gallery.move()
    assert (begun["state"], begun["moved"], begun["points"]) == ("waiting", 0, 2)
    assert begun["next_contract"]["model"] == ARCFACE
    assert gallery.who(EILEEN)["model"] == "dlib-resnet-v1"
    assert gallery.bring(EILEEN) == {"faces": 1, "carried": 1, "points": 2, "moved": 1}
    assert gallery.bring(EILEEN) == {"faces": 1, "carried": 1, "points": 2, "moved": 1}
    assert gallery.bring(NOBODY) == {"faces": 0, "carried": 0, "points": 2, "moved": 1}
    assert gallery.state() == ("waiting", 1, 2)
    assert gallery.move()["state"] == "waiting"
    found = gallery.who(EILEEN)
    assert (found["model"], found["faces"][0]["person_id"], "moved" in found) == ("dlib-resnet-v1", "eileen", False)
    assert gallery.bring(MIRRORED)["moved"] == 2
    done = gallery.move()
    assert (done["state"], done["points"], done["contract"]["model"]) == ("settled", 2, ARCFACE)
    assert gallery.persons() == {"eileen": 1, "mirrored": 1}
    found = gallery.who(EILEEN)
    assert (found["model"], found["metric"], found["threshold"]) == (ARCFACE, "cosine", 0.9999)
    assert found["faces"][0]["candidates"][0]["score"] == pytest.approx(1, abs=1e-3)
    (kept,) = gallery.ok("GET", "/persons/eileen")["faces"]
    assert kept["id"] != first["id"]
    assert {name: kept[name] for name in ("metadata", "created_at", "image_sha256")} == {
        name: first[name] for name in ("metadata", "created_at", "image_sha256")
    }
    # The same enrolment, once more, is the face that has moved.
    again = gallery.enrol("eileen", EILEEN, metadata={"room": 8})
    assert (again["created"], again["face"]["id"]) == (False, kept["id"])
    assert gallery.persons() == {"eileen": 1, "mirrored": 1}
    assert gallery.ask("POST", "/faces/reembed", {"image": text(EILEEN)}).status == 409
    points = gallery.ok("GET", "/points?limit=10")["points"]
    assert not [key for point in points for key in point["payload"] if key.startswith("_")]


def test_both_faces_of_an_image_find_their_own(gallery: Gallery) -> None:
    gallery.enrol("left", TWO, face=0)
    gallery.enrol("right", TWO, face=1)
    gallery.move()
    assert gallery.bring(TWO) == {"faces": 2, "carried": 2, "points": 2, "moved": 2}
    assert gallery.move()["state"] == "settled"
    boxes = {name: gallery.ok("GET", f"/persons/{name}")["faces"][0]["bbox"]["x"] for name in ("left", "right")}
    assert boxes["left"] < 512 < boxes["right"]


def test_without_images_it_says_what_is_needed(gallery: Gallery) -> None:
    gallery.enrol("eileen", EILEEN)
    refused = gallery.ask("POST", "/reembed", {"model": ARCFACE})
    assert (refused.status, refused.json["code"]) == (409, "conflict")
    assert "reembed staff --images FOLDER" in refused.json["detail"]
    assert gallery.state() == ("settled", 1, 1)
    # What serves already moves nowhere, with images or without.
    for sent in ({}, {"images": "coming"}, {"images": "complete"}):
        assert gallery.ok("POST", "/reembed", sent)["state"] == "settled"
    assert gallery.ask("POST", "/faces/reembed", {"image": text(EILEEN)}).status == 409
    assert gallery.ask("POST", "/reembed", {"model": "nothing", "images": "coming"}).status == 404
    assert gallery.ask("POST", "/reembed", {"images": "some"}).status == 400


def test_faces_without_images_are_left_out_when_told(gallery: Gallery) -> None:
    gallery.enrol("eileen", EILEEN)
    gallery.enrol("mirrored", MIRRORED)
    gallery.move()
    gallery.bring(MIRRORED)
    assert gallery.move("complete")["points"] == 1
    assert gallery.persons() == {"mirrored": 1}


def test_who_comes_and_goes_meanwhile_does_so_in_both_places(gallery: Gallery) -> None:
    gallery.enrol("eileen", EILEEN)
    gallery.enrol("mirrored", MIRRORED)
    gallery.move()
    gallery.bring(EILEEN)
    gallery.bring(MIRRORED)
    gallery.enrol("blue", BLUE)
    assert gallery.state() == ("waiting", 3, 3)
    assert gallery.ok("DELETE", "/persons/eileen") == {"id": "eileen", "deleted": 1}
    assert gallery.state() == ("waiting", 2, 2)
    gallery.enrol("blue", BLUE, metadata={"again": True})
    assert gallery.state() == ("waiting", 2, 2)
    assert gallery.move()["state"] == "settled"
    assert gallery.persons() == {"mirrored": 1, "blue": 1}
    assert gallery.ok("GET", "/persons/blue")["faces"][0]["metadata"] == {"again": True}


def test_a_move_is_given_up_or_goes_elsewhere(gallery: Gallery) -> None:
    """Asked back to where it is, a gallery stays, and nothing is left of the next place."""
    gallery.enrol("eileen", EILEEN)
    gallery.move()
    gallery.bring(EILEEN)
    back = gallery.move(model="dlib-resnet-v1")
    assert (back["state"], "next_contract" in back) == ("settled", False)
    assert gallery.who(EILEEN)["faces"][0]["person_id"] == "eileen"
    assert gallery.move()["moved"] == 0


@pytest.fixture
def without_dlib(own: Any) -> Iterator[Callable[[], None]]:
    """Takes dlib's network from the worker, until the end of the test."""
    roster = own.app.face_models.embedders
    shares = roster.rollout("dlib-resnet-v1").shares
    yield lambda: roster.lack("dlib-resnet-v1", "it was taken away")
    roster.serve("dlib-resnet-v1", shares)


def test_a_gallery_of_a_network_that_is_gone_answers_with_what_has_arrived(
    gallery: Gallery, without_dlib: Callable[[], None]
) -> None:
    """How much that is it says; enrolling waits, and listing goes on."""
    gallery.enrol("eileen", EILEEN)
    gallery.enrol("mirrored", MIRRORED)
    gallery.move()
    gallery.bring(EILEEN)
    without_dlib()
    found = gallery.who(EILEEN)
    assert (found["model"], found["moved"], found["search"]["compared"]) == (ARCFACE, 0.5, 1)
    refused = gallery.ask("POST", "/faces", {"person_id": "blue", "image": text(BLUE)})
    assert (refused.status, refused.json["code"]) == (503, "unavailable")
    assert gallery.persons() == {"eileen": 1, "mirrored": 1}
    gallery.bring(MIRRORED)
    assert gallery.move()["state"] == "settled"
    assert "moved" not in gallery.who(EILEEN)


@pytest.mark.parametrize("sent", [{}, {"image": "!"}, {"image": ""}, {"images": []}])
def test_what_is_no_image_is_refused_and_nothing_is_lost(gallery: Gallery, sent: Any) -> None:
    gallery.enrol("eileen", EILEEN)
    gallery.move()
    assert gallery.ask("POST", "/faces/reembed", sent).status in (400, 415, 422)
    assert gallery.state() == ("waiting", 0, 1)


def test_another_organisation_has_no_part_in_it(own: Any, gallery: Gallery) -> None:
    gallery.enrol("eileen", EILEEN)
    gallery.move()
    stranger = own.key(email="stranger@example.org")
    for method, below, sent in (
        ("POST", "/reembed", {"images": "complete"}), ("POST", "/faces/reembed", {"image": text(EILEEN)}),
        ("GET", "/reembed", None),
    ):  # fmt: skip
        assert gallery.ask(method, below, sent, key=stranger).status == 404
    assert json.loads(gallery.ask("GET", "/reembed").body)["state"] == "waiting"
