"""Sources written as text, and files of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from hub import FILES, Remembering, make_pins, write_files
from phalanx.errors import InvalidRequest, UpstreamFailed
from phalanx.models.catalogue import FileSource, HubSource, Source, WebSource
from phalanx.models.pins import WrongBytes
from phalanx.models.sources import Access, fetch, parse_source


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("hf:org/model@abc", HubSource(repository="org/model", revision="abc")),
        ("hf:org/model", HubSource(repository="org/model", revision="main")),
        ("https://a.org/m", WebSource(url="https://a.org/m")),
        ("http://127.0.0.1:1/m", WebSource(url="http://127.0.0.1:1/m")),
        ("file:/mnt/m", FileSource(path="/mnt/m")),
        ("file:///mnt/m", FileSource(path="/mnt/m")),
        ("file:m", FileSource(path="m")),
    ],
)
def test_sources_are_read_from_text_and_shown_alike(text: str, source: Source) -> None:
    assert parse_source(text) == source
    assert parse_source(str(source)) == source


def test_a_path_that_exists_is_a_source(tmp_path: Path) -> None:
    assert parse_source(str(tmp_path)) == FileSource(path=str(tmp_path))


@pytest.mark.parametrize(
    "text", ["", "pypi:x==1", "ftp://a.org", "hf:", "hf:a/b/c", "hf:a@x y", "file:", "nowhere", "https://"]
)
def test_other_texts_are_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"is no source; write hf:|cannot be read"):
        parse_source(text)


def copy(source: FileSource, folder: Path, wanted: dict[str, bytes] = FILES) -> Remembering:
    heard = Remembering()
    fetch(source, make_pins(wanted), folder, progress=heard, access=Access())
    return heard


def test_files_of_a_folder_are_copied(tmp_path: Path) -> None:
    write_files(tmp_path / "share")
    heard = copy(FileSource(path=str(tmp_path / "share")), tmp_path / "room")
    assert {path.name: path.read_bytes() for path in (tmp_path / "room").iterdir()} == FILES
    assert heard.transfers == [(name, len(data), len(data)) for name, data in FILES.items()]


def test_one_file_is_copied_under_the_catalogues_name(tmp_path: Path) -> None:
    write_files(tmp_path, {"downloaded.bin": FILES["config.json"]})
    copy(
        FileSource(path=str(tmp_path / "downloaded.bin")),
        tmp_path / "room",
        {"config.json": FILES["config.json"]},
    )
    assert (tmp_path / "room" / "config.json").read_bytes() == FILES["config.json"]


def test_one_file_is_not_two(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.bin": b"x"})
    with pytest.raises(UpstreamFailed, match="is one file, 2 are needed"):
        copy(FileSource(path=str(tmp_path / "a.bin")), tmp_path / "room")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UpstreamFailed, match=r"there is no .*model\.safetensors"):
        copy(FileSource(path=str(tmp_path)), tmp_path / "room")


def test_a_wrong_file_is_refused(tmp_path: Path) -> None:
    write_files(tmp_path, {**FILES, "config.json": b"{}"})
    with pytest.raises(WrongBytes, match="has 2 bytes, not 22"):
        copy(FileSource(path=str(tmp_path)), tmp_path / "room")
    assert not list((tmp_path / "room").glob("config*"))
