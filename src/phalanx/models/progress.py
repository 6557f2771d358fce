"""How a long transfer tells about itself, without knowing who listens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from phalanx.models.pins import CHUNK_BYTES


class Readable(Protocol):
    """Anything bytes can be read from."""

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes, none at the end."""
        ...


class Progress(Protocol):
    """Listens to one transfer at a time: `start`, any number of `advance`, `finish`; `note` at any moment."""

    def note(self, message: str) -> None:
        """Say one sentence, for example what is waited for."""
        ...

    def start(self, file: str, total_bytes: int | None) -> None:
        """Begin a file, or begin it anew. None: the size is not known beforehand."""
        ...

    def advance(self, count: int) -> None:
        """Add bytes received since the last call."""
        ...

    def finish(self) -> None:
        """End the file that was started, complete or not."""
        ...


class Silent:
    """A listener that says nothing."""

    def note(self, message: str) -> None:
        """Say nothing."""

    def start(self, file: str, total_bytes: int | None) -> None:
        """Say nothing."""

    def advance(self, count: int) -> None:
        """Say nothing."""

    def finish(self) -> None:
        """Say nothing."""


def read_chunks(stream: Readable, progress: Progress) -> Iterator[bytes]:
    """Yield a stream in bounded pieces, telling `progress` of each."""
    while chunk := stream.read(CHUNK_BYTES):
        progress.advance(len(chunk))
        yield chunk
