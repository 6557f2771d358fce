"""A shard written anew with its graph, in a process beside, from a copy.

`EdgeShard.optimize` keeps the interpreter's lock until it is done, for a minute and more on 100,000 vectors; no search passes
meanwhile. So the points of a copy are written to a new shard elsewhere, at the lowest priority. What was written in between is
carried over in small steps, and the new shard takes the place of the original between two calls. Nothing is in it but points:
what was deleted before is in no file any more.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from qdrant_edge import EdgeShard, UpdateOperation
from qdrant_edge import Point as EdgePoint

STEP = 500
"""How many points are carried over between two calls."""
MODULE = "phalanx.stores.qdrant.optimise"


class Rebuild:
    """A rebuild of the shard `shard` in `folder`, which was flushed and stands still while this is made."""

    def __init__(self, folder: Path, shard: str) -> None:
        self.name = f"shard-{int(shard.rpartition('-')[2]) + 1}"
        self._path = folder / self.name
        self._touched: dict[str, None] = {}
        self._new: EdgeShard | None = None
        self._copy = folder / f"{self.name}-copy"
        for path in (self._path, self._copy):
            shutil.rmtree(path, ignore_errors=True)
        copy_folder(folder / shard, self._copy)
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", MODULE, str(self._copy), str(self._path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    def note(self, ids: Sequence[str]) -> None:
        """Remember points that the new shard has not as they are now."""
        self._touched.update(dict.fromkeys(ids))

    def is_built(self) -> bool:
        """Whether the new shard is written."""
        return self._process.poll() == 0

    def has_failed(self) -> bool:
        """Whether the process ended without having done it."""
        return self._process.poll() not in (None, 0)

    def catch_up(self, old: EdgeShard) -> bool:
        """Carry some points over. Returns whether the new shard has all that `old` has."""
        if self._new is None:
            self._new = EdgeShard.load(str(self._path))
            return False
        ids = list(self._touched)[:STEP]
        if ids:
            records = old.retrieve(list(ids), True, True)
            there = {str(record.id) for record in records}
            gone = [name for name in ids if name not in there]
            if records:
                points = [EdgePoint(record.id, record.vector or [], record.payload) for record in records]
                self._new.update(UpdateOperation.upsert_points(points))
            if gone:
                self._new.update(UpdateOperation.delete_points(list(gone)))
            for name in ids:
                del self._touched[name]
        if self._touched:
            return False
        self._new.flush()
        return True

    def take(self) -> EdgeShard:
        """Return the new shard, once it has caught up."""
        assert self._new is not None
        return self._new

    def give_up(self) -> None:
        """End the process and do away with what it has made."""
        self._process.kill()
        self._process.wait()
        if self._new is not None:
            self._new.close()
        for path in (self._path, self._copy):
            shutil.rmtree(path, ignore_errors=True)


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder of Qdrant Edge's that stands still to one that is not there, without the holes of its files."""
    shutil.copytree(source, target, copy_function=_copy)


def _copy(source: str, target: str) -> None:
    """Copy a file without its holes, of which a log that was laid out in advance mostly consists."""
    with Path(source).open("rb") as read, Path(target).open("wb") as write:
        size, at = os.fstat(read.fileno()).st_size, 0
        os.ftruncate(write.fileno(), size)
        while at < size:
            try:
                at = os.lseek(read.fileno(), at, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # holes up to the end
                    return
                raise
            end = os.lseek(read.fileno(), at, os.SEEK_HOLE)
            os.lseek(write.fileno(), at, os.SEEK_SET)
            while at < end:
                at += os.sendfile(write.fileno(), read.fileno(), at, min(end - at, 1 << 30))
