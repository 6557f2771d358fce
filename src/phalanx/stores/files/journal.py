"""A usage journal in files: an append is one `write`, which survives the process.

Only the database is synced to the disk, so a power failure may cost what was not yet flushed: seconds of events.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path

from phalanx.contract.usage import UsageEvent
from phalanx.errors import Unavailable
from phalanx.stores.files.segment import ADOPT, CREATE, SUFFIX, Segment, hold
from phalanx.stores.journaled import BATCH_EVENTS, Deliver
from phalanx.telemetry import Log

SEGMENT_BYTES = 16 * 2**20
MAX_BYTES = 2**30
OWNER = ".owner"


class FileJournal:
    """A `Journal` in a folder, which several processes of one machine may share. It holds up to `max_bytes`.

    Beside its segments a journal has a file that says who owns it, held for as long as the process lives: how others
    learn that one died which had nothing waiting.
    """

    def __init__(self, folder: Path, *, log: Log, max_bytes: int = MAX_BYTES) -> None:
        self._folder = folder
        self._log = log
        self._max_bytes = max_bytes
        self._owner: int | None = None
        self._current: Segment | None = None
        self._sealed: deque[Segment] = deque()
        self._dead: dict[str, int] = {}
        self.name = ""
        self.waiting_bytes = 0

    @property
    def waiting(self) -> str:
        """How much waits, in words for the log."""
        return f"{self.waiting_bytes} bytes"

    async def open(self) -> None:
        """Take hold of a new journal, and of what dead processes left. Raises `Unavailable` without a writable folder."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not os.access(self._folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            while self._owner is None:
                self.name = f"{os.getpid()}-{secrets.token_hex(8)}"
                self._owner = hold(self._folder / f"{self.name}{OWNER}", CREATE)
        except OSError as error:
            raise Unavailable(f"the usage journal cannot be opened: {error.strerror}; see DATA_DIR") from error
        try:
            await self.adopt()
        except Unavailable:
            await self.close(is_finished=True)
            raise

    async def append(self, events: Sequence[UsageEvent]) -> None:
        """Write events, all or none. Raises `Unavailable` when the journal or the disk is full."""
        if self.waiting_bytes >= self._max_bytes:
            raise Unavailable(
                f"{self.waiting_bytes} bytes of usage wait for the database, {self._max_bytes} are allowed"
            )
        try:
            if self._current is None:
                self._current = Segment.create(self._folder, self.name)
            self.waiting_bytes += self._current.append(events)
        except OSError as error:
            raise Unavailable(f"the usage journal cannot be written: {error.strerror}") from error
        if self._current.size >= SEGMENT_BYTES:
            self._seal()

    async def adopt(self) -> None:
        """Take over the files of processes that are gone. Ours, and those of the living, are held. Raises `Unavailable`."""
        try:
            for path in sorted(self._folder.glob(f"*{SUFFIX}")):
                segment = Segment.adopt(path)
                if segment is not None:
                    self._sealed.append(segment)
                    self.waiting_bytes += segment.size
            for path in self._folder.glob(f"*{OWNER}"):
                descriptor = hold(path, ADOPT)
                if descriptor is not None:
                    self._dead[path.name.removesuffix(OWNER)] = descriptor
        except OSError as error:
            raise Unavailable(f"the usage journal cannot be read: {error.strerror}") from error

    async def drain(self, deliver: Deliver) -> None:
        """Hand over whatever was appended before this call, file by file; see the port."""
        await self._drain(deliver)
        self._seal()
        await self._drain(deliver)

    async def _drain(self, deliver: Deliver) -> None:
        while self._sealed:
            segment = self._sealed[0]
            for batch in segment.batches(BATCH_EVENTS):
                await deliver(batch)
            if segment.damaged:
                self._log.error("usage journal damaged", file=segment.path.name, lines=segment.damaged)
            segment.remove()
            self._sealed.popleft()
            self.waiting_bytes -= segment.size

    def _seal(self) -> None:
        if self._current is not None:
            self._sealed.append(self._current)
            self._current = None

    async def finished(self) -> list[str]:
        """Return the journals whose owner is dead and whose files are all delivered, by whomever."""
        return [name for name in self._dead if not any(self._folder.glob(f"*-{name}{SUFFIX}"))]

    async def forget(self, journals: Iterable[str]) -> None:
        """Remove the owner's file of finished journals."""
        for name in journals:
            (self._folder / f"{name}{OWNER}").unlink(missing_ok=True)
            os.close(self._dead.pop(name))

    async def close(self, *, is_finished: bool) -> None:
        """Let go of all files; a successor finds what is left in them."""
        self._seal()
        for segment in self._sealed:
            segment.release()
        self._sealed.clear()
        for descriptor in self._dead.values():
            os.close(descriptor)
        self._dead.clear()
        if self._owner is not None:
            if is_finished:
                (self._folder / f"{self.name}{OWNER}").unlink(missing_ok=True)
            os.close(self._owner)
            self._owner = None
