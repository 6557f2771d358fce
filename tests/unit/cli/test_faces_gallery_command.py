"""`phalanx faces enrol` and `identify` as they are typed, on services of the test's own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from phalanx.cli import asking
from phalanx.cli.bulk.journal import Facts
from phalanx.cli.faces import looking
from phalanx.cli.root import app as command_line
from phalanx.contract.collections import CollectionView, FacesContract, ListCollectionsResponse
from phalanx.contract.faces import BoundingBox, Landmarks
from phalanx.contract.gallery import (
    Candidate,
    EnrolledFace,
    EnrolResponse,
    IdentifiedFace,
    IdentifyResponse,
    ListPersonsResponse,
    SearchMeaning,
)
from phalanx.errors import (
    Conflict,
    ContractMismatch,
    InvalidRequest,
    LowQuality,
    NotFound,
    PhalanxError,
    Unauthenticated,
    Unavailable,
)
from pictures import quarters, saved

BOX = BoundingBox(x=100, y=150, width=200, height=220)
MARKS = Landmarks(left_eye=(140, 200), right_eye=(260, 200), nose=(200, 260), left_mouth=(160, 320), right_mouth=(240, 320))  # fmt: skip
CONTRACT = FacesContract(
    model="m", version="1", sha256="ab", dimensions=4, template="dlib", metric="euclidean", threshold=0.6, detector="d",
    detector_version="1",
    preprocessing="none",
)  # fmt: skip


class Services(asking.Here):
    """A gallery that keeps what it is sent. `owners` have a collection `staff`; `fails` is raised for what holds its key."""

    def __init__(self) -> None:
        self.owners = ["acme"]
        self.requests: list[tuple[str, Any]] = []
        self.fails: dict[bytes, PhalanxError] = {}
        self.down: PhalanxError | None = None

    def of(self, name: str) -> list[Any]:
        return [request for called, request in self.requests if called == name]

    def facts(self) -> Facts:
        return {"the detector": "one"}

    async def ask(self, name: str, request: Any) -> Any:
        await asyncio.sleep(0)
        self.requests.append((name, request))
        if name == "collections.list":
            return ListCollectionsResponse(collections=[
                CollectionView(name="staff", kind="faces", organisation=owner, contract=CONTRACT, place="p", created_at=1)
                for owner in self.owners
            ])  # fmt: skip
        if name == "faces.persons":
            if self.down is not None:
                raise self.down
            return ListPersonsResponse(persons=[], faces=0, complete=True)
        if name == "collections.create":
            return None
        for key, error in self.fails.items():
            if key in request.image:
                raise error
        if name == "faces.enrol":
            face = EnrolledFace(
                id="1", person_id=request.person_id, image_sha256="ab", bbox=BOX, landmarks=MARKS, quality=0.8,
                confidence=0.9, created_at=1, metadata=request.metadata,
            )  # fmt: skip
            return EnrolResponse(person_id=request.person_id, model="m", face=face, created=True)
        candidate = Candidate(person_id="ann", score=0.25, match=True, face_id="1", metadata={})
        face = IdentifiedFace(
            person_id="ann", candidates=[candidate], bbox=BOX, landmarks=MARKS, quality=1, confidence=1
        )  # type: ignore[assignment]
        meaning = SearchMeaning(compared=1, false_match_rate=None, false_positive_rate=None, meaning="")
        return IdentifyResponse(
            model="m", metric="euclidean", threshold=0.6, search=meaning, landmarks_estimated=[],
            faces=[face],  # type: ignore[list-item]
        )  # fmt: skip

    def run(self, whom: asking.Whom, work: Callable[[Any], Awaitable[Any]], **_: Any) -> Any:
        async def once() -> Any:
            return await work(self)

        return asyncio.run(once())


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Services:
    services = Services()
    monkeypatch.setattr(looking, "asking", services.run)
    monkeypatch.chdir(tmp_path)
    for name in ("people/ann/1", "people/ann/2", "people/bob/1"):
        path = Path(f"{name}.jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(saved(quarters(640, 480), "JPEG") + name.encode())
    return services


def run(*words: str, given: bytes | None = None) -> Result:
    return CliRunner().invoke(command_line, ["faces", *words], input=given)


def refused(*words: str) -> PhalanxError:
    error = run(*words).exception
    assert isinstance(error, PhalanxError), error
    return error


def lines(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_persons_are_named_as_their_folders(services: Services) -> None:
    result = run("enrol", "staff", "people")
    assert result.exit_code == 0, result.output
    assert [(line["file"], line["person_id"]) for line in lines(result)] == [
        ("people/ann/1.jpg", "ann"), ("people/ann/2.jpg", "ann"), ("people/bob/1.jpg", "bob"),
    ]  # fmt: skip
    assert {request.organisation for request in services.of("faces.enrol")} == {"acme"}
    assert len(services.of("collections.list")) == len(services.of("faces.persons")) == 1
    assert [line["person_id"] for line in lines(run("enrol", "staff", "people/bob"))] == ["bob"]
    assert [line["person_id"] for line in lines(run("enrol", "staff", "people/bob/1.jpg"))] == ["bob"]


def test_every_option_reaches_the_request(services: Services) -> None:
    run("enrol", "staff", "people/bob", "--person", "Robert", "--face", "only", "--min-quality", "0.7", "--metadata",
        '{"room": 7}', "--min-confidence", "0.6", "--detector", "short", "--organisation", "other")  # fmt: skip
    (request,) = services.of("faces.enrol")
    assert (request.name, request.person_id, request.face, request.min_quality) == ("staff", "Robert", "only", 0.7)
    assert (request.metadata, request.min_confidence, request.detector) == ({"room": 7}, 0.6, "short")
    assert request.organisation == "other"
    assert services.of("collections.list") == []
    run("identify", "staff", "people/bob", "--face", "1", "--limit", "3", "--threshold", "0.5")
    (asked,) = services.of("faces.identify")
    assert (asked.face, asked.limit, asked.threshold, asked.organisation) == (1, 3, 0.5, "acme")


@pytest.mark.parametrize(
    "words",
    [
        ("enrol", "staff", "-"),
        ("enrol", "staff", "people", "--face", "all"),
        ("enrol", "staff", "people", "--metadata", "[1]"),
        ("enrol", "staff", "people", "--metadata", "{"),
        ("identify", "staff", "people", "--face", "some"),
        ("identify", "staff", "gone.jpg"),
    ],
)
def test_what_cannot_be_meant_is_said_before_anything_is_loaded(services: Services, words: tuple[str, ...]) -> None:
    assert isinstance(refused(*words), InvalidRequest)
    assert services.requests == []


def test_a_picture_beside_the_folders_is_nobodys(services: Services) -> None:
    Path("people/loose.jpg").write_bytes(b"x")
    assert "beside folders of persons" in refused("enrol", "staff", "people").detail
    assert run("enrol", "staff", "people", "--person", "all-of-them").exit_code == 0


def test_a_picture_that_is_refused_fails_alone(services: Services) -> None:
    services.fails = {b"people/ann/2": LowQuality("too dark"), b"people/bob/1": Conflict("another's already")}
    result = run("enrol", "staff", "people")
    assert result.exit_code == 1
    assert [line.get("error", {}).get("code") for line in lines(result)] == [None, "low_quality", "conflict"]
    assert "too dark" in result.stderr


def test_a_failure_of_the_collection_ends_the_run(services: Services) -> None:
    services.fails = {b"people/ann/1": ContractMismatch("pinned to another")}
    assert isinstance(run("enrol", "staff", "people").exception, ContractMismatch)
    services.down = Conflict("one of vectors")
    assert isinstance(run("enrol", "staff", "people").exception, Conflict)
    services.down = Unavailable("another process has it open")
    assert isinstance(run("identify", "staff", "people").exception, Unavailable)


def test_whose_collection_it_is(services: Services) -> None:
    services.owners = ["acme", "other"]
    assert "acme, other" in refused("enrol", "staff", "people").detail
    services.owners = []
    assert isinstance(refused("identify", "staff", "people"), NotFound)
    assert "--create" in refused("enrol", "staff", "people").detail
    assert run("enrol", "staff", "people", "--create").exit_code == 0
    (made,) = services.of("collections.create")
    assert (made.name, made.kind, made.organisation) == ("staff", "faces", None)


def test_who_is_sought_where_nothing_is_learns_how_to_look(services: Services) -> None:
    """`identify` makes no collection."""
    services.owners = []
    assert "phalanx collections list" in refused("identify", "staff", "people").detail


@pytest.mark.parametrize(("key", "said"), [(None, "--key @FILE"), ("fe_x", "not well formed")])
def test_who_sent_no_key_is_told_of_the_option(key: str | None, said: str) -> None:
    with pytest.raises(Unauthenticated, match=said), asking.wanting_a_key(key):
        raise Unauthenticated("the API key is not well formed")


def test_who_it_is_is_said_and_drawn(services: Services) -> None:
    result = run("identify", "staff", "people", "--draw", "drawn")
    assert result.exit_code == 0, result.output
    assert [line["faces"][0]["person_id"] for line in lines(result)] == ["ann"] * 3
    assert (lines(result)[0]["search"]["compared"], lines(result)[0]["landmarks_estimated"]) == (1, [])
    assert sorted(str(path) for path in Path("drawn").rglob("*.jpg")) == [
        "drawn/ann/1.jpg", "drawn/ann/2.jpg", "drawn/bob/1.jpg",
    ]  # fmt: skip
