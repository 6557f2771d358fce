"""Archives that lie about what they hold."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from phalanx.errors import UpstreamFailed
from phalanx.models.pins import Pin, WrongBytes
from phalanx.models.progress import Silent
from phalanx.models.sources.archive import Member, extract

CONTENT = b"weights" * 100
PIN = Pin(size=len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest())


def take(archive: Path, folder: Path, path: str = "inner/w.bin") -> None:
    extract(archive, {"w.bin": Member(path, folder / "w.bin", PIN)}, progress=Silent())


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, data in members.items():
            opened.writestr(name, data)
    return path


def make_tar(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as opened:
        for info, data in members:
            info.size = len(data)
            opened.addfile(info, io.BytesIO(data))
    return path


def test_a_member_is_taken_from_zip_and_tar(tmp_path: Path) -> None:
    for archive in (
        make_zip(tmp_path / "a.whl", {"inner/w.bin": CONTENT, "other": b"x"}),
        make_tar(tmp_path / "a.tar.gz", (tarfile.TarInfo("o"), b"x"), (tarfile.TarInfo("inner/w.bin"), CONTENT)),
    ):
        folder = tmp_path / archive.suffix
        take(archive, folder)
        assert (folder / "w.bin").read_bytes() == CONTENT


def test_a_name_that_leads_upward_stays_where_it_belongs(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"../../w.bin": CONTENT})
    take(archive, tmp_path / "room", "../../w.bin")
    assert (tmp_path / "room" / "w.bin").read_bytes() == CONTENT
    assert {path.name for path in tmp_path.iterdir()} == {"a.zip", "room"}


def test_a_zip_bomb_is_cut_off(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"inner/w.bin": b"\0" * 50_000_000})
    with pytest.raises(WrongBytes, match="longer than its 700 bytes"):
        take(archive, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"a.zip"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE])
def test_a_member_that_is_no_file_is_refused(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("inner/w.bin")
    info.type, info.linkname = kind, "/etc/passwd"
    with pytest.raises(UpstreamFailed, match="is no regular file"):
        take(make_tar(tmp_path / "a.tar.gz", (info, b"")), tmp_path)


@pytest.mark.parametrize("name", ["a.whl", "a.tar.gz"])
def test_an_archive_without_the_member_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    make_zip(path, {"x": b""}) if name.endswith("whl") else make_tar(path, (tarfile.TarInfo("x"), b""))
    with pytest.raises(UpstreamFailed, match=r"has no member inner/w\.bin"):
        take(path, tmp_path)


@pytest.mark.parametrize("name", ["a.whl", "a.tar.gz", "a.tar.bz2"])
def test_garbage_is_no_archive(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"garbage" * 100)
    with pytest.raises(UpstreamFailed, match="cannot be unpacked"):
        take(tmp_path / name, tmp_path)


@pytest.mark.parametrize("kept", [30, 200])
def test_a_truncated_tar_is_refused(tmp_path: Path, kept: int) -> None:
    noise = bytes(hashlib.sha256(str(i).encode()).digest()[0] for i in range(700))
    archive = make_tar(tmp_path / "a.tar.gz", (tarfile.TarInfo("o"), noise), (tarfile.TarInfo("inner/w.bin"), CONTENT))
    archive.write_bytes(archive.read_bytes()[:kept])
    with pytest.raises(UpstreamFailed, match="cannot be unpacked"):
        take(archive, tmp_path)


def test_a_zip_with_a_broken_checksum_is_refused(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"inner/w.bin": CONTENT})
    data = bytearray(archive.read_bytes())
    data[data.index(b"inner/w.bin") + 15] ^= 0xFF
    archive.write_bytes(data)
    with pytest.raises(UpstreamFailed):
        take(archive, tmp_path)
    assert not (tmp_path / "w.bin").exists()
