"""Pinned files: the size and SHA-256 that a file must have, and how bytes become such a file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, BinaryIO, NoReturn

import msgspec

from phalanx.errors import UpstreamFailed

CHUNK_BYTES = 1 << 18

Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
FileName = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(?!manifest\.json\Z)[A-Za-z0-9_][A-Za-z0-9._+-]*(/[A-Za-z0-9_][A-Za-z0-9._+-]*)*"
        r"(?<!\.part)(?<!\.etag)\Z",
        max_length=200,
    ),
]
"""A relative path of plain segments: never hidden, absolute or upward, and none of the store's own names."""


class Pin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a file must be: its size in bytes and its lower-case hex SHA-256."""

    size: Annotated[int, msgspec.Meta(ge=0)]
    sha256: Digest


class WrongBytes(UpstreamFailed):
    """A file is not the pinned one; the detail holds both sizes or both digests."""


def digest_of(path: Path) -> str:
    """Return the hex SHA-256 of a file, read in bounded memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pin_of(path: Path) -> Pin:
    """Return the pin that a file fulfils as it is now."""
    return Pin(size=path.stat().st_size, sha256=digest_of(path))


def mismatch(path: Path, pin: Pin) -> str | None:
    """Return what is wrong with a file, None when it is the pinned one. Reads it only if the size fits."""
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    if size != pin.size:
        return f"has {size} bytes, not {pin.size}"
    found = digest_of(path)
    return None if found == pin.sha256 else f"has sha256 {found}, not {pin.sha256}"


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename in it survives a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Arriving:
    """A pinned file being received: its bytes gather in `<name>.part`, and only the right ones get the name.

    What an earlier, interrupted attempt left in the `.part` counts as received, unless `afresh`. As a context
    manager, leaving it keeps the `.part` for the next attempt; `commit` turns it into the file.
    """

    def __init__(self, target: Path, pin: Pin, *, name: str, afresh: bool = False) -> None:
        self.name = name
        self.pin = pin
        self._target = target
        self.part = target.with_name(target.name + ".part")
        self.part.parent.mkdir(parents=True, exist_ok=True)
        if afresh:
            self.part.unlink(missing_ok=True)
        self._file: BinaryIO = self.part.open("a+b")
        self._hash = hashlib.sha256()
        self.received = 0
        self._count_what_is_there()

    def __enter__(self) -> Arriving:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def _count_what_is_there(self) -> None:
        self._file.seek(0)
        while chunk := self._file.read(CHUNK_BYTES):
            self._hash.update(chunk)
            self.received += len(chunk)
        if self.received > self.pin.size:
            self.restart()

    def restart(self) -> None:
        """Forget the bytes received so far."""
        self._file.truncate(0)
        self._hash = hashlib.sha256()
        self.received = 0

    def write(self, chunk: bytes) -> None:
        """Append bytes. Raises `WrongBytes`, and removes the `.part`, once there are more than pinned."""
        if self.received + len(chunk) > self.pin.size:
            self.refuse(f"is longer than its {self.pin.size} bytes")
        self._file.write(chunk)
        self._hash.update(chunk)
        self.received += len(chunk)

    def commit(self) -> None:
        """Give the file its name. Raises `WrongBytes`, without a trace left, when it is another."""
        if self.received != self.pin.size:
            self.refuse(f"has {self.received} bytes, not {self.pin.size}")
        found = self._hash.hexdigest()
        if found != self.pin.sha256:
            self.refuse(f"has sha256 {found}, not {self.pin.sha256}")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self.part.replace(self._target)

    def refuse(self, problem: str) -> NoReturn:
        """Remove what was received and raise `WrongBytes` with the file's name and `problem`."""
        self._file.close()
        self.part.unlink(missing_ok=True)
        raise WrongBytes(f"{self.name} {problem}; it was removed")


def receive(chunks: Iterable[bytes], target: Path, pin: Pin, *, name: str) -> None:
    """Write chunks to `target` from nothing, stopping at the first that is too much. Raises `WrongBytes`."""
    with Arriving(target, pin, name=name, afresh=True) as arriving:
        for chunk in chunks:
            arriving.write(chunk)
        arriving.commit()
