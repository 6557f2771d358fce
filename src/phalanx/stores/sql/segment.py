"""One file of the usage journal: an event a line, held by `flock` for as long as its process lives."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from phalanx.contract.usage import UsageEvent

SUFFIX = ".jsonl"
_encode_lines = msgspec.json.Encoder().encode_lines
_decode = msgspec.json.Decoder(UsageEvent).decode


class Segment:
    """A journal file that this process holds. The kernel lets go of it when the process ends, however it ends.

    `size` is in bytes; `damaged` counts the whole lines that the last reading could not make sense of.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.size = os.fstat(descriptor).st_size
        self.damaged = 0
        self._descriptor = descriptor

    @classmethod
    def create(cls, folder: Path) -> Segment:
        """Begin a file. Raises OSError."""
        while True:
            path = folder / f"{time.time_ns():016x}-{os.getpid()}{SUFFIX}"
            segment = cls._hold(path, os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600))
            # A survivor in search of orphans may have come between the two calls: it removes the empty file.
            if segment is not None:
                return segment

    @classmethod
    def adopt(cls, path: Path) -> Segment | None:
        """Take over the file of a process that is gone; None when its process lives or another one was faster."""
        try:
            return cls._hold(path, os.open(path, os.O_RDWR | os.O_APPEND))
        except FileNotFoundError:
            return None

    @classmethod
    def _hold(cls, path: Path, descriptor: int) -> Segment | None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:
                return cls(path, descriptor)
        except BlockingIOError:
            pass
        os.close(descriptor)
        return None

    def append(self, events: Sequence[UsageEvent]) -> int:
        """Write events in one go, all or none, into the kernel's keeping. Returns their bytes. Raises OSError."""
        # A list: given a tuple, msgspec 0.22 leaks 48 bytes a call.
        lines = _encode_lines(list(events))
        written = os.write(self._descriptor, lines)
        if written != len(lines):
            os.ftruncate(self._descriptor, self.size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.size += written
        return written

    def batches(self, count: int) -> Iterator[list[UsageEvent]]:
        """Read the events back, `count` at a time. A last line that was cut short belongs to no answered call."""
        self.damaged = 0
        batch: list[UsageEvent] = []
        with os.fdopen(os.dup(self._descriptor), "rb") as file:
            file.seek(0)
            for line in file:
                try:
                    batch.append(_decode(line))
                except (msgspec.MsgspecError, UnicodeDecodeError):
                    self.damaged += line.endswith(b"\n")
                if len(batch) == count:
                    yield batch
                    batch = []
        if batch:
            yield batch

    def remove(self) -> None:
        """Delete the file, or, when some of it could not be read, set it aside under `.damaged`."""
        if self.damaged:
            self.path.replace(self.path.with_suffix(".damaged"))
        else:
            self.path.unlink(missing_ok=True)
        self.release()

    def release(self) -> None:
        """Let go of the file and leave it to whoever comes next."""
        os.close(self._descriptor)
