"""Files of this machine, for example from a mounted share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from phalanx.errors import UpstreamFailed
from phalanx.models.pins import Pin, receive
from phalanx.models.progress import Progress, read_chunks


def fetch(path: Path, paths: Mapping[str, str], files: Mapping[str, Pin], folder: Path, *, progress: Progress) -> None:
    """Copy files of a folder, or the one file that `path` is. Raises `UpstreamFailed`, `WrongBytes`."""
    place = path.expanduser()
    if place.is_file() and len(paths) > 1:
        raise UpstreamFailed(
            f"file:{path} is one file, {len(paths)} are needed ({', '.join(paths)}); name their folder"
        )
    for file, inner in paths.items():
        origin = place if place.is_file() else place / inner
        if not origin.is_file():
            raise UpstreamFailed(f"file:{path}: there is no {origin}")
        progress.start(file, files[file].size)
        try:
            with origin.open("rb") as stream:
                receive(read_chunks(stream, progress), folder / file, files[file], name=f"{file} of file:{path}")
        finally:
            progress.finish()
