"""One file of the usage journal: an event a line, held by `flock` for as long as its process lives."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from phalanx.contract.usage import UsageEvent
from phalanx.stores.journaled import decode_line, encode_lines

SUFFIX = ".jsonl"
CREATE = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL
ADOPT = os.O_RDWR | os.O_APPEND


def hold(path: Path, flags: int) -> int | None:
    """Open a file and take it for this process, which the kernel undoes when the process ends, however it ends.

    Returns its descriptor, or None when another process holds it or removed it meanwhile. Raises OSError.
    """
    try:
        descriptor = os.open(path, flags, 0o600)
    except FileNotFoundError:
        if flags & os.O_CREAT:
            raise
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink:
            return descriptor
    except BlockingIOError:
        pass
    os.close(descriptor)
    return None


class Segment:
    """A journal file that this process holds.

    `size` is in bytes; `damaged` counts the whole lines that the last reading could not make sense of.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.size = os.fstat(descriptor).st_size
        self.damaged = 0
        self._descriptor = descriptor

    @classmethod
    def create(cls, folder: Path, journal: str) -> Segment:
        """Begin a file of a journal; names sort by time. Raises OSError."""
        while True:
            path = folder / f"{time.time_ns():016x}-{journal}{SUFFIX}"
            descriptor = hold(path, CREATE)
            # A survivor in search of orphans may have come between making and holding: it removes the empty file.
            if descriptor is not None:
                return cls(path, descriptor)

    @classmethod
    def adopt(cls, path: Path) -> Segment | None:
        """Take over the file of a process that is gone; None when its process lives or another one was faster."""
        descriptor = hold(path, ADOPT)
        return None if descriptor is None else cls(path, descriptor)

    def append(self, events: Sequence[UsageEvent]) -> int:
        """Write events in one go, all or none, into the kernel's keeping. Returns their bytes. Raises OSError."""
        lines = encode_lines(events)
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
                event = decode_line(line)
                if event is None:
                    self.damaged += line.endswith(b"\n")
                    continue
                batch.append(event)
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
