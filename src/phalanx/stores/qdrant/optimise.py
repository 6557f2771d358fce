"""The process that writes a shard anew with its graph: `python -m phalanx.stores.qdrant.optimise COPY NEW`."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import sys
from pathlib import Path

from qdrant_edge import EdgeShard, ScrollRequest, UpdateOperation
from qdrant_edge import Point as EdgePoint

from phalanx.stores.qdrant.place import Facts, make_shard

PR_SET_PDEATHSIG = 1
"""From linux/prctl.h: the signal that a process gets when its parent dies."""
LOWEST_PRIORITY = 19
PAGE = 1000


def main() -> None:
    """Bring the points of a copy to a new shard and optimise that; do away with the copy. Ends when the parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == 1:
            return
    os.nice(LOWEST_PRIORITY)
    copy, new = map(Path, sys.argv[1:])
    old = EdgeShard.load(str(copy))
    make_shard(new, Facts.read(new.parent))
    shard, start = EdgeShard.load(str(new)), None
    while True:
        page, start = old.scroll(ScrollRequest(offset=start, limit=PAGE, with_payload=True, with_vector=True))
        points = [EdgePoint(record.id, record.vector or [], record.payload) for record in page]
        if points:
            shard.update(UpdateOperation.upsert_points(points))
        if start is None:
            break
    old.close()
    shutil.rmtree(copy)
    shard.optimize()
    shard.flush()
    shard.close()


if __name__ == "__main__":
    main()
