"""Where answers go: words for a reader, JSON lines for a program, a file that an interrupted run goes on with."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
import typer

from phalanx.cli.bulk.journal import Facts, Journal, Tally, Workspace, begin
from phalanx.cli.bulk.records import Position
from phalanx.cli.bulk.writers import reopen, sync
from phalanx.contract.text import ItemError
from phalanx.contract.vector import render_array
from phalanx.errors import Conflict, InvalidRequest

CHECKPOINT_EVERY = 64
"""Pictures between two notes of how far a run is: a second's work."""


class Line(NamedTuple):
    """What became of one picture: `fields` for JSON, `words` for a reader, `faces` for the count, or its `error`."""

    name: str
    fields: dict[str, Any]
    words: str
    faces: int = 0
    error: ItemError | None = None

    def json(self) -> bytes:
        """Return it as a line of JSON."""
        said = {"error": self.error} if self.error else self.fields
        return msgspec.json.encode({"file": self.name, **said}, enc_hook=render_array) + b"\n"


class Output(Protocol):
    """Where lines go. `done` is how many pictures an earlier sitting has written."""

    done: int
    tally: Tally

    def write(self, line: Line) -> None:
        """Take a line."""
        ...


class Spoken:
    """Words or JSON lines on standard output."""

    def __init__(self, *, as_json: bool) -> None:
        self.done = 0
        self.tally = Tally()
        self._as_json = as_json

    def write(self, line: Line) -> None:
        """Print a line; a failure's words are for standard error, which has them from the run."""
        if self._as_json:
            sys.stdout.buffer.write(line.json())
            sys.stdout.buffer.flush()
        elif line.error is None:
            typer.echo(line.words)


class Kept:
    """JSON lines on their way into a file, with a journal beside them."""

    def __init__(self, workspace: Workspace, journal: Journal) -> None:
        self._workspace = workspace
        self._journal = journal
        self._path = workspace.folder / "rows.jsonl"
        self._file = reopen(self._path, journal.state)
        self.tally = msgspec.structs.replace(journal.tally)
        self.done = journal.position.offset
        self._unnoted = 0

    def write(self, line: Line) -> None:
        """Append a line; now and then note how far it is."""
        self._file.write(line.json())
        self.done += 1
        self._unnoted += 1
        if self._unnoted >= CHECKPOINT_EVERY:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Put what was written on the disk, and note it."""
        self._journal = msgspec.structs.replace(
            self._journal, position=Position(self.done, self.done), state=sync(self._file),
            tally=msgspec.structs.replace(self.tally),
        )  # fmt: skip
        self._workspace.save(self._journal)
        self._unnoted = 0

    def publish(self) -> None:
        """Put the finished file in its place."""
        sync(self._file)
        self._file.close()
        self._workspace.publish(self._path)

    def close(self) -> None:
        """Close the file; the journal says up to where it counts."""
        self._file.close()


def check_output(output: Path, *, force: bool) -> None:
    """Refuse, before anything is loaded, an output that cannot be written."""
    if output.is_dir():
        raise InvalidRequest(f"{str(output)!r} is a folder; name a file in it")
    if not output.parent.is_dir():
        raise InvalidRequest(f"there is no folder {str(output.parent)!r} for the output; make it first")
    if output.exists() and not force:
        raise Conflict(f"{str(output)!r} exists; give another name, or --force to replace it")


@contextmanager
def keeping(workspace: Workspace, facts: Facts, *, restart: bool, note: Callable[[str], None]) -> Iterator[Kept]:
    """Yield the output of a run, an interrupted one's if there is one; it is put in its place unless the run fails.

    The workspace is locked by the caller. Raises `Conflict` when the interrupted run was another one.
    """
    with workspace.told_of_the_disk():
        kept = Kept(workspace, begin(workspace, facts, on_error="keep", restart=restart))
        if kept.done:
            note(f"Going on after {kept.done:,} pictures.")
        try:
            yield kept
        except BaseException:
            with suppress(OSError):
                kept.checkpoint()
            kept.close()
            raise
        kept.publish()


@contextmanager
def at_hand(output: Path) -> Iterator[Workspace]:
    """Yield the locked folder beside an output, and leave it only if there is something in it to go on with."""
    workspace = Workspace(output)
    with workspace.locked():
        try:
            yield workspace
        finally:
            if workspace.folder.exists() and workspace.load() is None:
                workspace.remove()
