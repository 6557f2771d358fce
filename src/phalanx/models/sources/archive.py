"""Takes single files out of wheels and sdists. No name in an archive ever becomes a path here."""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from phalanx.errors import UpstreamFailed
from phalanx.models.pins import Pin, receive
from phalanx.models.progress import Progress, Readable, read_chunks


class Member(NamedTuple):
    """A file to take: its exact path in the archive, where it goes, and what it must be."""

    path: str
    target: Path
    pin: Pin


def extract(archive: Path, members: Mapping[str, Member], *, progress: Progress) -> None:
    """Take `members` (by the name to show) out of a `.whl`, `.zip` or tar, at most the pinned size of each.

    Raises `UpstreamFailed` when the archive is damaged or lacks one, `WrongBytes` when one is not as pinned.
    """
    try:
        if archive.suffix in (".whl", ".zip"):
            _from_zip(archive, members, progress)
        else:
            _from_tar(archive, members, progress)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError) as error:
        raise UpstreamFailed(f"{archive.name} cannot be unpacked: {error}") from error


def _from_zip(archive: Path, members: Mapping[str, Member], progress: Progress) -> None:
    with zipfile.ZipFile(archive) as opened:
        there = set(opened.namelist())
        for name, member in members.items():
            if member.path not in there:
                raise UpstreamFailed(f"{archive.name} has no member {member.path}")
            with opened.open(member.path) as stream:
                _take(name, member, stream, archive, progress)


def _from_tar(archive: Path, members: Mapping[str, Member], progress: Progress) -> None:
    wanted = {member.path: name for name, member in members.items()}
    with tarfile.open(archive, "r|*") as opened:
        for info in opened:
            if (name := wanted.get(info.name)) is None:
                continue
            stream = opened.extractfile(info) if info.isreg() else None
            if stream is None:
                raise UpstreamFailed(f"{archive.name}: {info.name} is no regular file")
            del wanted[info.name]
            _take(name, members[name], stream, archive, progress)
            if not wanted:
                return
    raise UpstreamFailed(f"{archive.name} has no member {', '.join(wanted)}")


def _take(name: str, member: Member, stream: Readable, archive: Path, progress: Progress) -> None:
    progress.start(name, member.pin.size)
    try:
        receive(read_chunks(stream, progress), member.target, member.pin, name=f"{name} of {archive.name}")
    finally:
        progress.finish()
