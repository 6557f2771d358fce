"""`phalanx faces` as it is typed, on services of the test's own: which pictures, which lines, what happens to failures."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from phalanx.cli import asking
from phalanx.cli.asking import read_key
from phalanx.cli.bulk.journal import Facts
from phalanx.cli.faces import looking, pictures
from phalanx.cli.faces.pictures import collect
from phalanx.cli.root import app as command_line
from phalanx.contract.faces import (
    BoundingBox,
    CompareFacesResponse,
    DetectResponse,
    DetectResult,
    EmbeddedFace,
    EmbedFacesResponse,
    EmbedFacesResult,
    FoundFace,
    Landmarks,
    QualityMeasures,
)
from phalanx.contract.text import ItemError
from phalanx.errors import Conflict, InvalidRequest, NoFace, Overloaded, PhalanxError, TooLarge, Unavailable
from pictures import jpeg_with, oriented, quarters, saved

BOX = BoundingBox(x=100, y=150, width=200, height=220)
MARKS = Landmarks(
    left_eye=(140, 200), right_eye=(260, 200), nose=(200, 260), left_mouth=(160, 320), right_mouth=(240, 320)
)
MEASURES = QualityMeasures(
    sharpness=1, exposure=1, pose=1, size=1, completeness=1, detection=0.9, yaw=0, pitch=0, reasons=["small"]
)
FACE = FoundFace(bbox=BOX, landmarks=MARKS, confidence=0.9, roll=0, quality=0.8, measures=MEASURES)


class Services:
    """Finds as many faces in a picture as its bytes say: `faces=2`; `fails` is raised for pictures that hold its key."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.seen: list[bytes] = []
        self.fails: dict[bytes, list[BaseException]] = {}
        self.estimated: list[str] | None = ["left_mouth", "right_mouth"]

    def image(self, data: bytes) -> Any:
        return data

    def facts(self) -> Facts:
        return {"the detector": "one"}

    async def ask(self, name: str, request: Any) -> Any:
        await asyncio.sleep(0)
        self.requests.append(request)
        data = request.images[-1]
        for key, errors in self.fails.items():
            if key in data and errors:
                raise errors.pop(0)
        self.seen.append(data)
        count = int(data.partition(b"faces=")[2] or 1)
        unreadable = ItemError(code="unreadable_input", detail="it is no picture") if data == b"rubbish" else None
        if name == "faces.detect":
            one = (
                DetectResult(error=unreadable)
                if unreadable
                else DetectResult(faces=[FACE] * count, width=64, height=48)
            )
            return DetectResponse(model="m", landmarks_estimated=["left_mouth", "right_mouth"], results=[one])
        if name == "faces.embed":
            vector = np.arange(4, dtype=np.float32)
            faces = [EmbeddedFace(embedding=vector, quality=0.5, confidence=0.9, bbox=BOX, landmarks=MARKS)] * count
            return EmbedFacesResponse(
                model="m", metric="euclidean", threshold=0.6, threshold_meaning="measured", dimensions=4,
                landmarks_estimated=self.estimated, results=[EmbedFacesResult(faces=faces)],
            )  # fmt: skip
        return CompareFacesResponse(
            distance=0.4, threshold=0.6, threshold_meaning="measured", metric="euclidean", same=True,
            faces=[FACE, FACE], model="m",
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
    return services


def run(*words: str, given: bytes | None = None) -> Result:
    return CliRunner().invoke(command_line, ["faces", *words], input=given)


def refused(*words: str) -> PhalanxError:
    error = run(*words).exception
    assert isinstance(error, PhalanxError), error
    return error


def files(**contents: bytes) -> None:
    for name, data in contents.items():
        path = Path(name.replace("__", "/") + ".jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_folder_is_looked_at_in_order_of_names(services: Services) -> None:
    files(in__b=b"b faces=2", in__a=b"a", in__deep__er__c=b"c faces=0", in__z=b"z")
    Path("in/.hidden.jpg").write_bytes(b"x")
    Path("in/notes.txt").write_bytes(b"x")
    result = run("detect", "in")
    assert result.exit_code == 0, result.output
    found = lines(result.stdout)
    assert [(one["file"], len(one["faces"])) for one in found] == [
        ("in/a.jpg", 1), ("in/b.jpg", 2), ("in/z.jpg", 1), ("in/deep/er/c.jpg", 0),
    ]  # fmt: skip
    assert found[0]["faces"][0] == json.loads(msgspec.json.encode(FACE))
    assert (found[0]["width"], found[0]["model"]) == (64, "m")
    assert "4 pictures in" in result.stderr
    assert "4 faces, 0 failed" in result.stderr


def test_a_failure_is_a_line_and_the_exit_status(services: Services) -> None:
    files(a=b"a", b=b"rubbish", c=b"c")
    services.fails[b"c"] = [NoFace("no face here")]
    result = run("detect", "a.jpg", "b.jpg", "c.jpg", "a.jpg")
    assert result.exit_code == 1
    first, second, third = lines(result.stdout)
    assert "error" not in first
    assert second == {"file": "b.jpg", "error": {"code": "unreadable_input", "detail": "it is no picture"}}
    assert third["error"]["code"] == "no_face"
    assert "b.jpg: it is no picture" in result.stderr
    assert "3 pictures" in result.stderr


def test_a_failure_that_is_no_pictures_own_ends_the_run(services: Services) -> None:
    files(a=b"a", b=b"b")
    services.fails[b"a"] = [Unavailable("run: phalanx models pull")]
    error = run("detect", "a.jpg", "b.jpg").exception
    assert isinstance(error, Unavailable)


def test_no_room_is_waited_for(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "LONGEST_PAUSE_S", 0.0)
    files(a=b"a")
    services.fails[b"a"] = [Overloaded("full")] * 3
    assert run("detect", "a.jpg").exit_code == 0
    assert len(services.requests) == 4


def test_an_interrupted_run_goes_on(services: Services) -> None:
    files(**{f"in__{name}": name.encode() for name in "abcdefgh"})
    services.fails[b"f"] = [Unavailable("the model is gone")]
    assert isinstance(run("detect", "in", "-o", "out.jsonl").exception, Unavailable)
    assert not Path("out.jsonl").exists()
    before = len(services.seen)
    services.seen.clear()
    result = run("detect", "in", "-o", "out.jsonl")
    assert result.exit_code == 0, result.output
    assert "Going on after 5 pictures." in result.stderr
    assert sorted(services.seen) == [b"f", b"g", b"h"]
    assert before >= 5
    found = lines(Path("out.jsonl").read_text())
    assert [one["file"] for one in found] == [f"in/{name}.jpg" for name in "abcdefgh"]
    assert sorted(path.name for path in Path().iterdir()) == ["in", "out.jsonl"]
    assert "8 pictures" in result.stderr


def test_an_interrupted_run_is_not_mixed_with_another(services: Services) -> None:
    files(**{f"in__{name}": name.encode() for name in "abcdef"})
    services.fails[b"f"] = [Unavailable("the model is gone")]
    run("detect", "in", "-o", "out.jsonl")
    assert "--min-confidence was '0.5', is '0.7'" in str(
        refused("detect", "in", "-o", "out.jsonl", "--min-confidence", "0.7")
    )
    files(in__g=b"g")
    assert isinstance(refused("detect", "in", "-o", "out.jsonl"), Conflict)
    services.seen.clear()
    assert run("detect", "in", "-o", "out.jsonl", "--restart").exit_code == 0
    assert len(services.seen) == 7


def test_an_output_is_not_replaced_unless_asked(services: Services) -> None:
    files(a=b"a")
    Path("out.jsonl").write_text("mine")
    assert isinstance(refused("detect", "a.jpg", "-o", "out.jsonl"), Conflict)
    assert isinstance(refused("detect", "a.jpg", "-o", "."), InvalidRequest)
    assert isinstance(refused("detect", "a.jpg", "-o", "no/out.jsonl"), InvalidRequest)
    assert isinstance(refused("detect", "a.jpg", "--force"), InvalidRequest)
    assert services.requests == []
    assert run("detect", "a.jpg", "-o", "out.jsonl", "--force").exit_code == 0
    assert lines(Path("out.jsonl").read_text())[0]["file"] == "a.jpg"


def test_a_failed_run_leaves_no_folder_when_nothing_was_done(services: Services) -> None:
    files(a=b"a")
    services.fails[b"a"] = [Unavailable("gone")]
    run("detect", "a.jpg", "-o", "out.jsonl")
    assert [path.name for path in Path().iterdir() if path.name != "a.jpg"] in ([], ["out.jsonl.partial"])
    assert run("detect", "a.jpg", "-o", "out.jsonl").exit_code == 0


def test_a_name_that_is_no_text_is_shown_by_its_numbers(services: Services) -> None:
    """Of a file from another machine; the others are looked at all the same."""
    files(in__b=b"b")
    with open(b"in/caf\xe9.jpg", "wb") as file:  # noqa: PTH123  a name of bytes
        file.write(b"a")
    result = run("detect", "in")
    assert result.exit_code == 0, result.output
    assert [one["file"] for one in lines(result.stdout)] == ["in/b.jpg", "in/caf\\xe9.jpg"]


def test_standard_input_is_one_picture(services: Services) -> None:
    result = run("detect", "-", given=b"piped")
    assert lines(result.stdout)[0]["file"] == "(standard input)"
    assert services.seen == [b"piped"]


def test_every_option_reaches_the_request(services: Services) -> None:
    files(a=b"a")
    run("detect", "a.jpg", *["--min-confidence", "0.7", "--max-faces", "3", "--detector", "short"])
    assert services.requests[-1] == _like(services, min_confidence=0.7, max_faces=3, detector="short")
    run("embed", "a.jpg", *["--face", "2", "--model", "sface", "--min-confidence", "0.3", "--detector", "full"])
    assert services.requests[-1] == _like(services, face=2, model="sface", min_confidence=0.3, detector="full")
    run("embed", "a.jpg", "--aligned")
    assert services.requests[-1] == _like(services, aligned=True)


def _like(services: Services, **fields: Any) -> Any:
    kind = type(services.requests[-1])
    return kind(images=[b"a"], **fields)


def test_vectors_come_with_what_they_mean(services: Services) -> None:
    files(a=b"a faces=2")
    (line,) = lines(run("embed", "a.jpg", "--face", "all").stdout)
    assert [face["embedding"] for face in line["faces"]] == [[0, 1, 2, 3]] * 2
    assert (line["metric"], line["threshold"], line["dimensions"]) == ("euclidean", 0.6, 4)


@pytest.mark.parametrize("face", ["both", "-1", "1.5", "9999999999999", ""])
def test_a_face_that_cannot_be_meant(services: Services, face: str) -> None:
    files(a=b"a")
    assert run("embed", "a.jpg", f"--face={face}").exit_code != 0
    assert services.requests == []


def test_one_picture_is_compared_with_many(services: Services) -> None:
    files(known=b"known", in__a=b"a", in__b=b"b")
    result = run("compare", "known.jpg", "in")
    assert result.exit_code == 0, result.output
    assert [(line["file"], line["reference"], line["same"]) for line in lines(result.stdout)] == [
        ("in/a.jpg", "known.jpg", True), ("in/b.jpg", "known.jpg", True),
    ]  # fmt: skip
    assert [request.images[0] for request in services.requests] == [b"known"] * 2
    assert isinstance(refused("compare", "in", "known.jpg"), InvalidRequest)


def test_what_is_wrong_with_one_of_two_pictures_is_said_by_its_name(services: Services) -> None:
    """The reference's failure would be that of every picture."""
    files(known=b"known", in__a=b"a", in__b=b"b")
    services.fails[b"a"] = [NoFace("images[1]: no face")]
    result = run("compare", "known.jpg", "in")
    assert result.exit_code == 1
    assert [one.get("error", {}).get("detail") for one in lines(result.stdout)] == ["no face", None]
    services.fails[b"a"] = [NoFace("images[0]: no face")]
    result = run("compare", "known.jpg", "in/a.jpg")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "REFERENCE 'known.jpg': no face" in result.stderr


def test_what_is_not_there_is_said_before_anything_is_loaded(services: Services) -> None:
    Path("empty").mkdir()
    assert "there is no file 'gone.jpg'" in refused("detect", "gone.jpg").detail
    assert "no picture is in 'empty'" in refused("detect", "empty").detail
    assert isinstance(refused("detect", "empty", "--key", "k"), InvalidRequest)


def test_a_file_that_may_not_be_read_fails_alone(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    files(a=b"a", b=b"b" * 100)
    monkeypatch.setattr(pictures, "MAX_FILE_BYTES", 50)
    Path("c.jpg").mkdir()
    result = run("detect", "a.jpg", "b.jpg")
    assert result.exit_code == 1
    assert lines(result.stdout)[1]["error"]["code"] == TooLarge.row.code


def test_a_reader_at_a_terminal_gets_words(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    files(a=b"a", b=b"b faces=0")
    shown = Terminal(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", shown)
    command_line(["faces", "detect", "a.jpg", "b.jpg"], standalone_mode=False)
    shown.flush()
    words = shown.buffer.getvalue().decode()  # type: ignore[attr-defined]
    assert "a.jpg: 1 face\n  200 × 220 at 100, 150: confidence 0.90, quality 0.80 (small)\n" in words
    assert "b.jpg: no face\n" in words


def test_pictures_are_drawn_upright_and_in_full_size(services: Services) -> None:
    photo = quarters(640, 480)
    files(in__a=jpeg_with(oriented(6), photo), in__deep__a=saved(photo, "JPEG"))
    Path("in/b.webp").write_bytes(saved(photo, "WEBP", lossless=True))
    assert run("detect", "in", "--draw", "drawn/here").exit_code == 0
    made = sorted(str(path) for path in Path("drawn").rglob("*.*"))
    assert made == ["drawn/here/a.jpg", "drawn/here/b.webp.png", "drawn/here/deep/a.jpg"]
    turned, plain = cv2.imread(made[0]), cv2.imread(made[1])
    assert turned is not None
    assert plain is not None
    assert (turned.shape, plain.shape) == ((640, 480, 3), (480, 640, 3))
    # In BGR: the box is green, the nose red, a corner of the mouth a ring, and the rest is as it was.
    assert plain[370, 200].tolist() == plain[250, 100].tolist() == [96, 224, 64]
    assert plain[260, 200].tolist() == [64, 64, 255]
    assert plain[320, 160].tolist() == plain[400, 50].tolist() == [255, 0, 0]
    assert plain[320, 163, 2] > 150 > plain[320, 163, 0]
    assert plain[479, 639].tolist() == [128, 128, 128]


@pytest.mark.parametrize("estimated", [["left_mouth", "right_mouth"], [], None], ids=["both", "none", "not said"])
def test_what_is_estimated_is_drawn_as_a_ring(services: Services, estimated: list[str] | None) -> None:
    files(a=saved(quarters(640, 480), "JPEG"))
    services.estimated = estimated
    result = run("embed", "a.jpg", "--draw", "drawn")
    assert lines(result.stdout)[0]["landmarks_estimated"] == estimated
    drawn = cv2.imread("drawn/a.jpg")
    assert drawn is not None
    # A ring leaves its middle as the picture has it, blue; a dot is red.
    blue, _, red = drawn[320, 160]
    assert bool(blue > red) is bool(estimated)


def test_nothing_is_drawn_over_what_is_looked_at(services: Services) -> None:
    files(a=saved(quarters(), "JPEG"))
    assert isinstance(refused("detect", "a.jpg", "--draw", "."), InvalidRequest)
    assert isinstance(refused("detect", "a.jpg", "--draw", "a.jpg"), InvalidRequest)
    assert isinstance(refused("embed", "a.jpg", "--aligned", "--draw", "drawn"), InvalidRequest)
    assert services.requests == []


def test_pictures_of_one_name_are_drawn_apart(services: Services) -> None:
    for folder in ("one", "two"):
        files(**{f"{folder}__a": saved(quarters(), "JPEG")})
    assert run("detect", "one", "two", "--draw", "drawn").exit_code == 0
    assert sorted(path.name for path in Path("drawn").iterdir()) == ["a-2.jpg", "a.jpg"]


def test_a_file_is_taken_once_and_links_are_not_followed_round(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"a")
    (tmp_path / "B.JPG").write_bytes(b"b")
    (tmp_path / "round").symlink_to(tmp_path)
    found = collect([str(tmp_path), str(tmp_path / "a.jpg"), "-", "-"])
    assert [picture.within for picture in found] == [("B.JPG",), ("a.jpg",), ("standard-input",)]


def test_a_key_may_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("fe_secret\n")
    assert read_key(f"@{tmp_path / 'key'}") == "fe_secret"
    assert read_key(None) is None
    for bad in ("", "two words", "naïve", "line\nbreak", f"@{tmp_path / 'none'}", f"@{tmp_path}"):
        with pytest.raises(InvalidRequest):
            read_key(bad)
