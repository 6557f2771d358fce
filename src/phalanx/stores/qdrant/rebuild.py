"""A shard's graph, built in a process beside, on a copy.

`EdgeShard.optimize` keeps the interpreter's lock until it is done, for a minute and more on 100,000 vectors; no search passes
meanwhile. So a copy of the shard is optimised elsewhere, at the lowest priority. What was written in between is carried over
in small steps, and the copy takes the place of the original between two calls.
"""

from __future__ import annotations

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
        shutil.rmtree(self._path, ignore_errors=True)
        # Flushed, the segments hold everything that is in the log.
        shutil.copytree(folder / shard / "segments", self._path / "segments")
        shutil.copy(folder / shard / "edge_config.json", self._path)
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", MODULE, str(self._path)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )

    def note(self, ids: Sequence[str]) -> None:
        """Remember points that the copy has not as they are now."""
        self._touched.update(dict.fromkeys(ids))

    def is_built(self) -> bool:
        """Whether the copy is optimised."""
        return self._process.poll() == 0

    def has_failed(self) -> bool:
        """Whether the process ended without having done it."""
        return self._process.poll() not in (None, 0)

    def catch_up(self, old: EdgeShard) -> bool:
        """Carry some points over. Returns whether the copy has all that `old` has."""
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
        """Return the copy, once it has caught up."""
        assert self._new is not None
        return self._new

    def give_up(self) -> None:
        """End the process and do away with the copy."""
        self._process.kill()
        self._process.wait()
        if self._new is not None:
            self._new.close()
        shutil.rmtree(self._path, ignore_errors=True)
