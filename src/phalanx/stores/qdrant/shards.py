"""All places of a folder, in Qdrant Edge, for the one process that has it open."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

from phalanx.errors import Conflict, NotFound, Unavailable
from phalanx.stores.points import check_place
from phalanx.stores.qdrant.frames import (
    Call,
    Count,
    Create,
    Delete,
    DeleteWhere,
    Drop,
    Get,
    Optimised,
    Places,
    Scroll,
    Search,
    Tally,
    Upsert,
)
from phalanx.stores.qdrant.place import FACTS, Facts, Place, make_place

MAX_OPEN = 64
"""How many places are open at once: each has a few threads and maps its files. The one used last longest ago is closed."""
LOCK_TIMEOUT_S = 5.0
"""How long a worker that was replaced is given to let go of the folder, in seconds."""
LOCK = "lock"
HELD = (
    "the folder of the vectors is open in another process, and Qdrant Edge is for one; "
    "set QDRANT_URL to a Qdrant server for more than one"
)


class Shards:
    """The places of a folder, which nobody else may open meanwhile. Raises `Unavailable` when somebody has."""

    def __init__(self, folder: Path, *, lock_timeout_s: float = LOCK_TIMEOUT_S, max_open: int = MAX_OPEN) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder, self._max_open = folder, max_open
        self._lock = _lock(folder / LOCK, lock_timeout_s)
        self._open: OrderedDict[str, Place] = OrderedDict()
        for left in [*folder.glob(".new-*"), *folder.glob(".gone-*")]:
            shutil.rmtree(left)
        for path in folder.glob(f"*/{FACTS}"):
            # A place that is damaged says so when it is asked for; the others serve.
            with suppress(Exception):
                if Facts.read(path.parent).erase:
                    self._place(path.parent.name)

    def do(self, call: Call) -> Any:  # noqa: C901 - one branch a call
        """Do a call and return what its answer holds. Raises `NotFound`, `Conflict`, `InvalidRequest`."""
        match call:
            case Create():
                return self._create(call)
            case Drop():
                return self._drop(call.place)
            case Places():
                return sorted(path.name for path in self._folder.iterdir() if path.is_dir() and path.name[0] != ".")
            case Upsert():
                return self._place(call.place).upsert(call.points)
            case Delete():
                return self._place(call.place).delete(call.ids)
            case DeleteWhere():
                return self._place(call.place).delete_where(call.only, erase=call.erase)
            case Get():
                return self._place(call.place).get(call.ids, call.with_vectors)
            case Search():
                return self._place(call.place).search(call.vector, call.limit, call.only, call.with_vectors)
            case Scroll():
                return self._place(call.place).scroll(call.after, call.limit, call.only, call.with_vectors)
            case Count():
                return self._place(call.place).count(call.only)
            case Tally():
                return self._place(call.place).tally(call.key, call.limit, call.only)
            case Optimised():
                return self._place(call.place).optimised()

    def is_settled(self) -> bool:
        """Whether there is nothing left to do in the background."""
        return all(place.is_settled() for place in self._open.values())

    def tend(self) -> None:
        """Do a little of what is due in the background."""
        rebuilding = any(place.is_rebuilding() for place in self._open.values())
        for place in list(self._open.values()):
            place.tend(may_rebuild=not rebuilding)
            rebuilding |= place.is_rebuilding()

    def close(self) -> None:
        """Close all places and let go of the folder."""
        for place in self._open.values():
            place.close()
        self._open.clear()
        os.close(self._lock)

    def _create(self, call: Create) -> None:
        check_place(call.place, call.dimensions)
        if not (self._folder / call.place).is_dir():
            make_place(self._folder / call.place, Facts(call.dimensions, call.distance, sorted(set(call.indexed))))
            return
        place = self._place(call.place)
        facts = place.facts
        if (facts.dimensions, facts.distance) != (call.dimensions, call.distance):
            raise Conflict(f"the place is there, with {facts.dimensions:,} dimensions and {facts.distance}")
        place.index(call.indexed)

    def _drop(self, name: str) -> bool:
        try:
            place = self._place(name)
        except NotFound:
            return False
        del self._open[name]
        place.close()
        gone = self._folder / f".gone-{name}"
        shutil.rmtree(gone, ignore_errors=True)
        (self._folder / name).rename(gone)
        shutil.rmtree(gone)
        return True

    def _place(self, name: str) -> Place:
        place = self._open.get(name)
        if place is not None:
            self._open.move_to_end(name)
            return place
        check_place(name, 1)
        if not (self._folder / name).is_dir():
            raise NotFound("there is no such place of vectors")
        self._open[name] = place = Place(self._folder / name)
        if len(self._open) > self._max_open:
            # One that has something to erase goes on with it, if there is another.
            left = next((name for name, one in self._open.items() if not one.has_to_erase()), next(iter(self._open)))
            self._open.pop(left).close()
        return place


def _lock(path: Path, timeout_s: float) -> int:
    """Take the lock of a file; it goes with the process. Returns its descriptor."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                os.close(lock)
                raise Unavailable(HELD) from None
            time.sleep(0.05)
        else:
            return lock
