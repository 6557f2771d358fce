"""From the paths that were typed to the pictures that are meant."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from phalanx.errors import InvalidRequest, PhalanxError, TooLarge, UnreadableInput

STANDARD_INPUT = "-"
SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp")
"""What is taken from a folder. A file that is named itself is taken whatever it is called."""

MAX_FILE_BYTES = 64 * 2**20
"""Files beyond this are not read at all; what a worker takes is less."""


class Picture(NamedTuple):
    """A picture to look at. `name` is how it is spoken of; `path` None is standard input.

    `within` are the parts of its path below the folder that was named, the file's own name last.
    """

    name: str
    path: Path | None
    within: tuple[str, ...]

    def read(self) -> bytes:
        """Return the file. Raises `UnreadableInput` or `TooLarge`."""
        try:
            if self.path is None:
                data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
            else:
                with self.path.open("rb") as file:
                    data = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise UnreadableInput(f"the file cannot be read: {error.strerror}") from None
        if len(data) > MAX_FILE_BYTES:
            raise TooLarge(f"the file has more than {MAX_FILE_BYTES} bytes")
        return data

    def identity(self) -> str:
        """Return what changes when the file does: name, size and time of change."""
        if self.path is None:
            return self.name
        try:
            status = self.path.stat()
        except OSError:
            return self.name
        return f"{self.name}\0{status.st_size}\0{status.st_mtime_ns}"


def collect(words: Sequence[str]) -> list[Picture]:
    """Return the pictures of files, of folders with all below them, in order of names, and of `-`; each file once.

    Links to folders inside a folder are not followed. Raises `InvalidRequest` for a path that is not there and for a folder
    without pictures.
    """
    found: dict[str, Picture] = {}
    for word in words:
        if word == STANDARD_INPUT:
            found.setdefault(word, Picture("(standard input)", None, ("standard-input",)))
            continue
        path = Path(word)
        if not path.exists():
            raise InvalidRequest(f"there is no file {word!r}")
        if path.is_dir():
            below = list(_below(path))
            if not below:
                raise InvalidRequest(f"no picture is in {word!r}; these are looked for: {', '.join(SUFFIXES)}")
            for one in below:
                found.setdefault(_key(one), Picture(_shown(one), one, one.relative_to(path).parts))
        else:
            found.setdefault(_key(path), Picture(_shown(path), path, (path.name,)))
    return list(found.values())


def try_read(picture: Picture) -> bytes | PhalanxError:
    """Return a picture's file, or why it cannot be had."""
    try:
        return picture.read()
    except PhalanxError as error:
        return error


def _below(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield Path(parent, name)


def _shown(path: Path) -> str:
    """Return a path as text that can be written down: bytes of it that are no UTF-8 by their numbers."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _key(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100  links stay what they are
