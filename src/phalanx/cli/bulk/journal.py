"""What a bulk run leaves beside its output so that the same command can go on after a kill."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from phalanx.cli.bulk.records import Position
from phalanx.errors import Conflict, Unavailable

HEAD_BYTES = 1 << 20
VERSION = 1
OURS = ("journal.*", "rows.*")

Facts = dict[str, str | int | bool | None]
"""What has to be the same for a run to go on: words for it, and its value."""


class Tally(msgspec.Struct):
    """Counts of a run from its beginning, over all its sittings: records read, tokens used, records that failed."""

    records: int = 0
    tokens: int = 0
    truncated: int = 0
    failed: int = 0
    seconds: float = 0.0


class Journal(msgspec.Struct):
    """How far a run has come: the place in the input, the writer's state, and under which facts."""

    facts: Facts
    on_error: str
    position: Position = Position()
    state: int = 0
    tally: Tally = msgspec.field(default_factory=Tally)
    version: int = VERSION


class Workspace:
    """The folder `<output>.partial`: the unfinished output and its journal, for one process at a time."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.folder = output.with_name(output.name + ".partial")
        self._journal = self.folder / "journal.json"
        self._holds_work = False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder and hold it. Raises `Conflict` while another process does, `Unavailable` if it cannot."""
        with self.told_of_the_disk():
            self.folder.mkdir(exist_ok=True)
            descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _lock(descriptor, self.output)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def told_of_the_disk(self) -> Iterator[None]:
        """Turn an `OSError` into `Unavailable` that says what is kept."""
        try:
            yield
        except OSError as error:
            kept = f"; what is done is kept in {str(self.folder)!r}, and the same command goes on from there"
            raise Unavailable(
                f"{str(self.output)!r} cannot be written: {error.strerror or error}{kept if self._holds_work else ''}"
            ) from None

    def load(self) -> Journal | None:
        """Return the journal of an interrupted run, if there is one. Raises `Conflict` when it cannot be read."""
        try:
            journal = msgspec.json.decode(self._journal.read_bytes(), type=Journal)
        except FileNotFoundError:
            return None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Conflict(f"{str(self._journal)!r} cannot be read ({error}); begin anew with --restart") from None
        self._holds_work = True
        return journal

    def save(self, journal: Journal) -> None:
        """Replace the journal, whole or not at all."""
        draft = self._journal.with_suffix(".new")
        with draft.open("wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(journal)))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._journal)
        self._holds_work = True
        _sync_folder(self.folder)

    def clear(self) -> None:
        """Forget what an earlier run left; files of other names stay."""
        self._holds_work = False
        for pattern in OURS:
            for path in self.folder.glob(pattern):
                path.unlink()

    def publish(self, file: Path) -> None:
        """Put the finished file in its place, in one step, and remove the folder."""
        file.replace(self.output)
        _sync_folder(self.output.parent)
        self.remove()

    def remove(self) -> None:
        """Remove the folder with what is ours in it."""
        self.clear()
        with suppress(OSError):
            self.folder.rmdir()


def begin(workspace: Workspace, facts: Facts, *, on_error: str, restart: bool) -> Journal:
    """Return the journal to go on with, or a new one. Raises `Conflict` when the interrupted run was another one."""
    found = None if restart else workspace.load()
    if found is None:
        workspace.clear()
        return Journal(facts=facts, on_error=on_error)
    names = [*found.facts, *(name for name in facts if name not in found.facts)]
    changed = [
        f"{name} was {found.facts.get(name)!r}, is {facts.get(name)!r}"
        for name in names
        if found.facts.get(name) != facts.get(name)
    ]
    if found.version != VERSION:
        changed.append(f"the journal's version was {found.version}, is {VERSION}")
    if found.tally.failed and found.on_error != on_error:
        changed.append(f"--on-error was {found.on_error!r}, is {on_error!r}, and {found.tally.failed} have failed")
    if changed:
        raise Conflict(
            f"{str(workspace.folder)!r} holds {found.tally.records:,} records of an interrupted run that this command "
            f"cannot go on with: {'; '.join(changed)}. Repeat the earlier command, or begin anew with --restart"
        )
    return msgspec.structs.replace(found, on_error=on_error)


def identify(path: Path) -> Facts:
    """Return what tells an input from another: size, time of change and the SHA-256 of the first MiB."""
    status = path.stat()
    with path.open("rb") as file:
        head = hashlib.sha256(file.read(HEAD_BYTES)).hexdigest()
    changed = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(status.st_mtime_ns // 10**9))
    return {
        "the input's size in bytes": status.st_size,
        "the input's time of change": f"{changed}.{status.st_mtime_ns % 10**9:09}Z",
        "the SHA-256 of its first MiB": head,
    }


def _lock(descriptor: int, output: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Conflict(f"another run is writing {str(output)!r}; wait for it or end it") from None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
