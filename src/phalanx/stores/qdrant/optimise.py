"""The process that builds a shard's graph: `python -m phalanx.stores.qdrant.optimise SHARD`."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from qdrant_edge import EdgeShard

PR_SET_PDEATHSIG = 1
"""From linux/prctl.h: the signal that a process gets when its parent dies."""
LOWEST_PRIORITY = 19


def main() -> None:
    """Optimise the shard that is named, and end with it when the parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == 1:
            return
    os.nice(LOWEST_PRIORITY)
    shard = EdgeShard.load(sys.argv[1])
    shard.optimize()
    shard.flush()
    shard.close()


if __name__ == "__main__":
    main()
