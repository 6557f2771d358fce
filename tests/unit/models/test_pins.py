"""A file gets its name only when its bytes are the pinned ones."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phalanx.models.pins import Arriving, FileName, Pin, WrongBytes, mismatch, pin_of, receive

CONTENT = b"weights" * 1000


def pin(content: bytes = CONTENT) -> Pin:
    return Pin(size=len(content), sha256=hashlib.sha256(content).hexdigest())


def test_pin_of_a_file_is_its_size_and_digest(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(CONTENT)
    assert pin_of(tmp_path / "f") == pin()


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        (CONTENT, None),
        (CONTENT[:-1], f"has {len(CONTENT) - 1} bytes, not {len(CONTENT)}"),
        (None, "is missing"),
    ],
)
def test_mismatch_says_what_is_wrong(tmp_path: Path, found: bytes | None, problem: str | None) -> None:
    if found is not None:
        (tmp_path / "f").write_bytes(found)
    assert mismatch(tmp_path / "f", pin()) == problem


def test_mismatch_of_equal_length_names_both_digests(tmp_path: Path) -> None:
    other = b"x" * len(CONTENT)
    (tmp_path / "f").write_bytes(other)
    assert mismatch(tmp_path / "f", pin()) == f"has sha256 {pin(other).sha256}, not {pin().sha256}"


@given(cuts=st.lists(st.integers(0, len(CONTENT)), max_size=8), stop=st.integers(0, 8))
def test_any_chunks_with_an_interruption_anywhere_give_the_same_file(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], stop: int
) -> None:
    target = tmp_path_factory.mktemp("arriving") / "inner" / "f"
    borders = [0, *sorted(cuts), len(CONTENT)]
    chunks = [CONTENT[start:end] for start, end in pairwise(borders)]
    with Arriving(target, pin(), name="f") as first:
        for chunk in chunks[:stop]:
            first.write(chunk)
    assert not target.exists()
    with Arriving(target, pin(), name="f") as second:
        assert second.received == sum(map(len, chunks[:stop]))
        for chunk in chunks[stop:]:
            second.write(chunk)
        second.commit()
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == ["f"]


def test_a_wrong_byte_is_refused_with_both_digests_and_leaves_nothing(tmp_path: Path) -> None:
    wrong = CONTENT[:-1] + b"S"
    with pytest.raises(WrongBytes) as refusal:
        receive([wrong], tmp_path / "f", pin(), name="model.safetensors")
    assert "model.safetensors" in refusal.value.detail
    assert pin().sha256 in refusal.value.detail
    assert pin(wrong).sha256 in refusal.value.detail
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("content", "word"), [(CONTENT + b"!", "longer"), (CONTENT[:-1], "6999 bytes, not 7000")])
def test_a_wrong_length_is_refused_and_leaves_nothing(tmp_path: Path, content: bytes, word: str) -> None:
    with pytest.raises(WrongBytes, match=word):
        receive([content], tmp_path / "f", pin(), name="f")
    assert list(tmp_path.iterdir()) == []


def test_an_endless_stream_is_cut_off_at_the_pinned_size(tmp_path: Path) -> None:
    def endless() -> object:
        while True:
            yield b"x" * 4096

    with pytest.raises(WrongBytes, match="longer than its 7000 bytes"):
        receive(endless(), tmp_path / "f", pin(), name="f")  # type: ignore[arg-type]


def test_a_part_longer_than_the_file_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "f.part").write_bytes(CONTENT + b"tail")
    with Arriving(tmp_path / "f", pin(), name="f") as arriving:
        assert arriving.received == 0


@pytest.mark.parametrize("name", ["model.onnx", "1_Pooling/config.json", "a+b-c_d.bin"])
def test_plain_relative_names_are_file_names(name: str) -> None:
    assert msgspec.convert(name, FileName) == name


NOT_HERE = [
    "",
    "/etc/passwd",
    "../f",
    "a/../f",
    "a/./f",
    "a//f",
    "a/",
    ".hidden",
    "a\\f",
    "f\n",
    "f\0",
    "C:f",
    "a b",
]
NOT_OURS = ["manifest.json", "model.onnx.part", "model.onnx.etag", "x" * 201]


@pytest.mark.parametrize("name", NOT_HERE + NOT_OURS)
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(name, FileName)
