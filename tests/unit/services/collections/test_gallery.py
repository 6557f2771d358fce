"""Galleries by the service, over stores in memory and the real face models."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import cv2
import msgspec
import numpy as np
import pytest

from clocks import HandClock
from phalanx.contract.collections import (
    CollectionRequest,
    Condition,
    CreateCollectionRequest,
    Filter,
    MatchOf,
)
from phalanx.contract.gallery import (
    MAX_METADATA_BYTES,
    EnrolRequest,
    EnrolResponse,
    ForgetPersonRequest,
    IdentifyRequest,
    IdentifyResponse,
    ListPersonsRequest,
    PersonRequest,
)
from phalanx.engines.choice import EngineChoice
from phalanx.errors import (
    Conflict,
    ContractMismatch,
    Forbidden,
    InvalidRequest,
    LowQuality,
    NoFace,
    NotFound,
    SeveralFaces,
    TooLarge,
    UnreadableInput,
)
from phalanx.models.catalogue import load_catalogue
from phalanx.models.store import ModelStore
from phalanx.ports import Point
from phalanx.services.collections.contracts import Contracts
from phalanx.services.collections.face_moving import FaceCarrier
from phalanx.services.collections.gallery import GalleryService
from phalanx.services.collections.registry import CollectionRegistry
from phalanx.services.collections.service import CollectionService
from phalanx.services.faces.finding import FaceFinder
from phalanx.services.faces.service import FaceService
from phalanx.services.images import ImageIntake
from phalanx.services.results import Results
from phalanx.services.serving.face_loading import FULL_RANGE, detectors_of, load_detector, load_embedder
from phalanx.services.serving.face_models import FaceModels
from phalanx.services.serving.roster import Share
from phalanx.services.serving.text_models import ModelRegistry
from phalanx.services.ticket import Caller, Meter
from phalanx.stores.memory.cache import MemoryCache
from phalanx.stores.memory.collections import MemoryCollectionStore
from phalanx.stores.memory.vectors import MemoryVectorStore
from phalanx.upstreams.fetch import Fetcher
from pictures import astronaut, quarters, saved

T = TypeVar("T")

REPOSITORY = Path(__file__).parents[4]
PHOTOS = Path(os.environ.get("PHALANX_REFERENCE", REPOSITORY.parent / "shared" / "reference")) / "faces"
LABELS = PHOTOS / "labels.json"
EMBEDDER = "dlib-resnet-v1"

needs_photos = pytest.mark.skipif(not LABELS.is_file(), reason="no reference photos; PHALANX_REFERENCE names them")

PHOTO = saved(astronaut(), "PNG")
PAIR = saved(np.hstack([astronaut(), astronaut()[:, ::-1]]), "PNG")
EMPTY = saved(quarters(320, 240), "PNG")


def blurred(strength: float) -> bytes:
    return saved(np.asarray(cv2.GaussianBlur(astronaut(), (0, 0), strength), np.uint8), "PNG")


class Admitted:
    """As much of a ticket as the services look at."""

    def __init__(self, organisation: str = "org-1", scopes: tuple[str, ...] = ("faces",)) -> None:
        self.caller = Caller(organisation, organisation, "key-1", "scale", frozenset(scopes))  # type: ignore[arg-type]
        self.deadline = float("inf")
        self.meter = Meter()

    def report(self, fraction: float, stage: str = "") -> None:
        """Nobody follows."""

    @property
    def tenant(self) -> str:
        return self.caller.organisation


class Models:
    """The face models of the test store, loaded once, on a loop of their own."""

    def __init__(self, folder: Path) -> None:
        self.runner = asyncio.Runner()
        store = ModelStore(folder, catalogue=load_catalogue())
        choice = EngineChoice(threads=2)
        ((full, short, _),) = detectors_of(store).values()
        self.detector = load_detector(full, short, choice, lambda *_: lambda facts: None)
        self.embedder = load_embedder(store, store.active(EMBEDDER), choice, lambda *_: lambda facts: None)
        for served in (self.detector, self.embedder):
            served.runner.start()
        self.served = FaceModels()
        self.served.detectors.serve(FULL_RANGE, [Share(self.detector)])
        self.served.embedders.serve(EMBEDDER, [Share(self.embedder)])

    def close(self) -> None:
        for served in (self.detector, self.embedder):
            self.runner.run(served.runner.stop(1.0))
        self.detector.release()
        self.runner.close()


@pytest.fixture(scope="module")
def models(models_dir: Path) -> Iterator[Models]:
    loaded = Models(models_dir)
    yield loaded
    loaded.close()


class House:
    """A gallery `people` and what it stands on."""

    def __init__(self, models: Models) -> None:
        self.run = models.runner.run
        self.clock = HandClock()
        self.records, self.store = MemoryCollectionStore(), MemoryVectorStore()
        self.registry = CollectionRegistry(self.records, self.store, self.clock)
        self.fetcher = Fetcher((), max_bytes=2**20)
        self.intake = ImageIntake(self.fetcher, self.clock, max_bytes=2**23, max_pixels=2**24)
        finder = FaceFinder(models.served, self.intake)
        faces = FaceService(models.served, finder, self.intake, Results(MemoryCache(0), self.clock))
        self.collections = CollectionService(
            self.registry, Contracts(ModelRegistry("words"), models.served), self.clock
        )
        self.carrier = FaceCarrier(self.store, models.served, finder, faces)
        self.gallery = GalleryService(self.registry, models.served, finder, faces, self.carrier, self.clock)
        self.ticket: Any = Admitted()
        self.create("people")

    def do(self, work: Awaitable[T]) -> T:
        return self.run(work)  # type: ignore[arg-type]

    def create(self, name: str, **fields: Any) -> Any:
        request = CreateCollectionRequest(name=name, **{"kind": "faces", **fields})
        return self.do(self.collections.create(self.ticket, request))

    def enrol(self, image: Any = PHOTO, person: str = "eileen", *, ticket: Any = None, **fields: Any) -> EnrolResponse:
        request = EnrolRequest(**{"name": "people", "person_id": person, "image": image, **fields})
        return self.do(self.gallery.enrol(ticket or self.ticket, request))

    def identify(self, image: Any = PHOTO, **fields: Any) -> IdentifyResponse:
        request = IdentifyRequest(**{"name": "people", "image": image, **fields})
        return self.do(self.gallery.identify(self.ticket, request))

    def persons(self, **fields: Any) -> dict[str, int]:
        found = self.do(self.gallery.persons(self.ticket, ListPersonsRequest(name="people", **fields)))
        return {person.id: person.faces for person in found.persons}

    def person(self, person: str, **fields: Any) -> Any:
        return self.do(self.gallery.person(self.ticket, PersonRequest(name="people", id=person, **fields)))

    def forget(self, person: str, **fields: Any) -> Any:
        request = ForgetPersonRequest(**{"name": "people", "id": person, **fields})
        return self.do(self.gallery.forget(self.ticket, request))

    def points(self) -> list[Point]:
        place = self.do(self.registry.find(self.ticket, "people")).place
        return self.do(self.store.scroll(place, limit=1000, with_vectors=True))

    def add(self, person: str, vector: np.ndarray[Any, Any], number: int = 0) -> None:
        """Put a face in whose vector is known."""
        collection = self.do(self.registry.find(self.ticket, "people"))
        digest = hashlib.md5(f"{person}{number}".encode(), usedforsecurity=False).hexdigest()
        name = f"{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:]}"
        payload = {**self.points()[0].payload, "person_id": person}
        self.do(self.store.upsert(collection.place, [Point(name, vector.astype(np.float32), payload)]))


@pytest.fixture
def house(models: Models) -> Iterator[House]:
    built = House(models)
    yield built
    built.intake.close()
    built.do(built.fetcher.close())


def test_a_face_is_kept_with_all_that_is_known_of_it(house: House) -> None:
    house.enrol(metadata={"room": 7})
    (point,) = house.points()
    assert point.vector is not None
    assert point.vector.shape == (128,)
    assert 1 < np.linalg.norm(point.vector) < 2
    assert set(point.payload) == {
        "person_id", "image_sha256", "bbox", "landmarks", "quality", "confidence", "contract", "created_at", "metadata",
    }  # fmt: skip
    assert point.payload["person_id"] == "eileen"
    assert point.payload["image_sha256"] == hashlib.sha256(PHOTO).hexdigest()
    assert point.payload["metadata"] == {"room": 7}
    assert point.payload["created_at"] == house.clock.epoch
    assert set(point.payload["bbox"]) == {"x", "y", "width", "height"}


def test_the_same_enrolment_twice_is_one_face(house: House) -> None:
    first = house.enrol(metadata={"room": 7})
    house.clock.advance(60)
    again = house.enrol(metadata={"room": 8})
    assert (first.created, again.created) == (True, False)
    assert first.face is not None
    assert again.face is not None
    assert first.face.id == again.face.id
    assert again.face.created_at == first.face.created_at
    assert [point.payload["metadata"] for point in house.points()] == [{"room": 8}]
    assert house.persons() == {"eileen": 1}


def test_ids_depend_on_whose_and_which_face_it_is(house: House) -> None:
    mine = house.enrol().face
    assert mine is not None
    other: Any = Admitted("org-2", ("faces", "vectors"))
    house.ticket, before = other, house.ticket
    house.create("people")
    theirs = house.enrol().face
    house.ticket = before
    assert theirs is not None
    left, right = (house.enrol(PAIR, face=number).face for number in (0, 1))
    assert left is not None
    assert right is not None
    assert len({mine.id, theirs.id, left.id, right.id}) == 4


def test_a_face_is_one_persons(house: House) -> None:
    house.enrol()
    with pytest.raises(Conflict, match="as 'eileen' already"):
        house.enrol(person="sally")
    assert house.persons() == {"eileen": 1}
    house.forget("eileen")
    house.enrol(person="sally")
    assert house.persons() == {"sally": 1}


@pytest.mark.parametrize(
    ("image", "fields", "error", "says"),
    [
        (EMPTY, {}, NoFace, "no face"),
        (b"rubbish", {}, UnreadableInput, "image"),
        ("not base64", {}, UnreadableInput, "base64"),
        (PAIR, {"face": "only"}, SeveralFaces, "2 faces"),
        (PAIR, {"face": 2}, InvalidRequest, "0 to 1"),
        (blurred(4), {}, LowQuality, "blurred"),
        (PHOTO, {"min_quality": 0.999}, LowQuality, "at least 1.00 is wanted"),
        (saved(np.asarray(cv2.resize(astronaut(), (60, 60), interpolation=cv2.INTER_AREA), np.uint8), "PNG"), {}, LowQuality, "small"),
        (PHOTO, {"metadata": {"long": "x" * MAX_METADATA_BYTES}}, TooLarge, "16384 are allowed"),
        (PHOTO, {"name": "nobody"}, NotFound, "no collection 'nobody'"),
        (PHOTO, {"organisation": "org-2"}, Forbidden, "another organisation"),
        (PHOTO, {"images": [PHOTO]}, InvalidRequest, "either image or images"),
        (None, {}, InvalidRequest, "either image or images"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else None,
)  # fmt: skip
def test_what_may_not_come_in(house: House, image: Any, fields: dict[str, Any], error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        house.enrol(image, **fields)
    assert house.points() == []


@pytest.mark.parametrize("person", ["", " ", ".", "..", "a/b", "a\nb", "a\n", "tab\t", "\u2028", "x" * 201, 5, None])
def test_what_is_no_name_of_a_person(house: House, person: Any) -> None:
    """By the type where the schema says so, by the service otherwise; nothing is stored either way."""
    body = msgspec.json.encode({"name": "people", "person_id": person, "image": "x"})

    def enrol() -> None:
        house.do(house.gallery.enrol(house.ticket, msgspec.json.decode(body, type=EnrolRequest)))

    with pytest.raises((msgspec.ValidationError, InvalidRequest)):
        enrol()


@pytest.mark.parametrize("person", ["a", "x" * 200, "Eileen Collins", "名前", "a%2Fb", "o'brien?", "#1"])
def test_a_person_may_be_called_much(house: House, person: str) -> None:
    house.enrol(person=person)
    assert house.persons() == {person: 1}
    assert house.person(person).count == 1
    assert house.forget(person).deleted == 1


def test_a_collection_of_another_kind(house: House) -> None:
    house.create("numbers", kind="vectors", dimensions=128, metric="euclidean")
    with pytest.raises(Conflict, match="one of vectors"):
        house.enrol(name="numbers")
    with pytest.raises(Conflict, match="one of vectors"):
        house.identify(name="numbers")
    with pytest.raises(Conflict, match="one of vectors"):
        house.forget("eileen", name="numbers")


@pytest.mark.parametrize("field", ["version", "sha256", "template", "detector_version", "preprocessing", "model"])
def test_a_collection_that_is_pinned_to_another_model(house: House, field: str) -> None:
    house.enrol()
    record = house.do(house.records.find("org-1", "people"))
    assert record is not None
    contract = json.loads(record.contract)
    changed = record._replace(contract=json.dumps({**contract, field: "another"}))
    assert house.do(house.records.replace(record, changed))
    house.clock.advance(5)
    with pytest.raises(ContractMismatch, match="'people' is pinned to"):
        house.enrol()
    with pytest.raises(ContractMismatch):
        house.identify()
    # What needs no model goes on, above all that a person is forgotten.
    assert house.persons() == {"eileen": 1}
    assert house.forget("eileen").deleted == 1


def test_of_several_images_each_has_its_own_error(house: House) -> None:
    answer = house.enrol(None, images=[PHOTO, EMPTY, blurred(4), b"rubbish"])
    assert answer.results is not None
    assert [result.error.code if result.error else None for result in answer.results] == [
        None, "no_face", "low_quality", "unreadable_input",
    ]  # fmt: skip
    assert "blurred" in answer.results[2].error.detail  # type: ignore[union-attr]
    assert answer.results[0].created is True
    assert house.persons() == {"eileen": 1}
    assert house.ticket.meter.units == 1


def test_a_person_is_found_and_a_stranger_is_not(house: House) -> None:
    house.enrol(metadata={"room": 7})
    found = house.identify(saved(astronaut(), "JPEG", quality=80))
    (face,) = found.faces or []
    assert face.person_id == "eileen"
    (candidate,) = face.candidates
    assert candidate.match
    assert 0 < candidate.score < 0.3
    assert candidate.metadata == {"room": 7}
    assert (found.metric, found.threshold, found.model) == ("euclidean", 0.6, EMBEDDER)
    strict = house.identify(saved(astronaut(), "JPEG", quality=80), threshold=0.0001)
    (face,) = strict.faces or []
    assert (face.person_id, face.candidates[0].match) == (None, False)


def test_a_gallery_without_a_face_knows_nobody(house: House) -> None:
    found = house.identify()
    (face,) = found.faces or []
    assert (face.person_id, face.candidates) == (None, [])
    assert (found.search.compared, found.search.false_positive_rate) == (0, 0.0)
    assert house.persons() == {}


def test_what_the_threshold_means_depends_on_the_size(house: House) -> None:
    house.enrol()
    one = house.identify().search
    assert one.compared == 1
    assert one.false_match_rate == pytest.approx(0.0124)
    assert one.false_positive_rate == pytest.approx(0.0124)
    for number in range(99):
        house.add(f"p{number}", np.full(128, 10.0 + number))
    many = house.identify().search
    assert many.compared == 100
    assert many.false_positive_rate == pytest.approx(1 - (1 - 0.0124) ** 100, abs=1e-6)
    assert "99.38" in many.meaning
    own = house.identify(threshold=0.5).search
    assert (own.false_match_rate, own.false_positive_rate) == (None, None)
    assert "measure" in own.meaning


def test_persons_are_named_once_by_their_nearest_face(house: House) -> None:
    house.enrol()
    vector = house.points()[0].vector
    assert vector is not None
    rng = np.random.default_rng(1)
    for number in range(60):
        house.add("eileen", vector + rng.normal(scale=0.001, size=128), number)
    for number, person in enumerate(("b", "c", "d")):
        house.add(person, vector + 0.1 * (number + 1))
    (face,) = house.identify(limit=3).faces or []
    assert [candidate.person_id for candidate in face.candidates] == ["eileen", "b", "c"]
    assert face.candidates[0].score == pytest.approx(0, abs=0.02)
    only = Filter(must_not=[Condition(key="person_id", match=MatchOf(value="eileen"))])
    filtered = house.identify(limit=1, filter=only)
    assert [one.person_id for one in (filtered.faces or [])[0].candidates] == ["b"]
    assert filtered.search.compared == 3


def test_all_faces_of_an_image_are_named(house: House) -> None:
    house.enrol()
    faces = house.identify(PAIR, face="all").faces or []
    assert [face.person_id for face in faces] == ["eileen", "eileen"]
    assert faces[0].bbox.x < 512 < faces[1].bbox.x
    with pytest.raises(SeveralFaces):
        house.identify(PAIR, face="only")
    results = house.identify(None, images=[PHOTO, EMPTY]).results or []
    assert [result.error.code if result.error else None for result in results] == [None, "no_face"]


def test_persons_are_listed_and_looked_at(house: House) -> None:
    house.enrol()
    vector = house.points()[0].vector
    assert vector is not None
    for number in range(5):
        house.add("ann", vector, number)
    house.add("bob", vector)
    assert list(house.persons().items()) == [("ann", 5), ("bob", 1), ("eileen", 1)]
    short = house.do(house.gallery.persons(house.ticket, ListPersonsRequest(name="people", limit=2)))
    assert ([person.id for person in short.persons], short.faces, short.complete) == (["ann", "bob"], 7, False)
    first = house.person("ann", limit=3)
    rest = house.person("ann", limit=3, after=first.next)
    assert (first.count, len(first.faces), len(rest.faces), rest.next) == (5, 3, 2, None)
    assert len({face.id for face in (*first.faces, *rest.faces)}) == 5
    with pytest.raises(NotFound, match="no face of 'zoe'"):
        house.person("zoe")


def test_nothing_is_left_of_who_is_forgotten(house: House) -> None:
    house.enrol()
    vector = house.points()[0].vector
    assert vector is not None
    house.add("ann", vector)
    house.enrol(saved(astronaut(), "JPEG"))
    assert house.forget("eileen").deleted == 2
    assert house.persons() == {"ann": 1}
    assert all(b"eileen" not in msgspec.json.encode(point.payload) for point in house.points())
    with pytest.raises(NotFound):
        house.forget("eileen")
    house.enrol()
    assert house.persons() == {"ann": 1, "eileen": 1}


def test_who_is_forgotten_is_gone_where_points_move_to(house: House) -> None:
    """While a collection moves there are two places."""
    house.enrol()
    (point,) = house.points()
    record = house.do(house.records.find("org-1", "people"))
    assert record is not None
    house.do(house.store.create("next", dimensions=128, distance="euclidean", indexed=["person_id"]))
    house.do(house.store.upsert("next", [point]))
    moving = record._replace(next_place="next", next_contract=record.contract)
    assert house.do(house.records.replace(record, moving))
    house.clock.advance(5)
    house.forget("eileen")
    assert house.do(house.store.count("next")) == house.do(house.store.count(record.place)) == 0
    house.enrol()
    assert house.do(house.store.count("next")) == house.do(house.store.count(record.place)) == 1


def test_a_collection_that_goes_takes_its_faces_along(house: House) -> None:
    house.enrol()
    house.do(house.collections.delete(house.ticket, CollectionRequest(name="people")))
    with pytest.raises(NotFound):
        house.persons()
    with pytest.raises(NotFound):
        house.identify()
    house.create("people")
    assert house.persons() == {}


@needs_photos
def test_the_photos_of_known_people(house: House) -> None:
    """One photo of each is enrolled; every face of all photos is told, each as who it is, and whom nobody named as nobody."""
    labels: dict[str, list[str]] = json.loads(LABELS.read_text())["faces"]
    also_visible = json.loads(LABELS.read_text())["also_visible"]
    alone = {name: people[0] for name, people in labels.items() if len(people) == 1}
    enrolled = {person: name for name, person in sorted(alone.items(), reverse=True)}
    for person, name in enrolled.items():
        house.enrol((PHOTOS / name).read_bytes(), person, face="largest")
    assert house.persons() == dict.fromkeys(sorted(enrolled), 1)
    for name, people in labels.items():
        faces = house.identify((PHOTOS / name).read_bytes(), face="all").faces or []
        found = [face.person_id for face in faces]
        assert found in ([people, [*people, None]] if name in also_visible else [people]), name
        for face in faces[: len(people)]:
            (nearest, *others) = face.candidates
            assert nearest.match
            assert not any(other.match for other in others), name
