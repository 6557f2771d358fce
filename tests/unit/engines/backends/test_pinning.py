"""Where the engine's threads may run: they must leave room for other workers. Each is looked at in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from phalanx.engines.backends import open_backend
from phalanx.engines.threads import visible_cores


def confined(graph: Path, threads: int) -> bool:
    """Whether a thread of the process was bound to fewer cores than the process while the engine ran."""
    backend = open_backend(graph, engine="openvino", device="cpu", precision="f32", threads=threads)
    done = threading.Event()

    def compute() -> None:
        ids = np.ones((8, 128), np.int64)
        for _ in range(20):
            backend.infer(ids, ids)
        done.set()

    computing = threading.Thread(target=compute)
    computing.start()
    seen = set()
    while not done.wait(0.001):
        for task in Path("/proc/self/task").iterdir():
            try:
                seen.add(len(os.sched_getaffinity(int(task.name))))
            except ProcessLookupError:
                continue
    computing.join()
    return min(seen) < visible_cores()


def is_confined(graph: Path, threads: int) -> bool:
    """Ask a process in which no other engine runs."""
    done = subprocess.run(
        [sys.executable, __file__, graph, str(threads)], check=True, capture_output=True, text=True, timeout=60
    )
    return done.stdout.strip() == "True"


@pytest.mark.skipif(visible_cores() < 2, reason="one core leaves no choice")
def test_an_engine_with_a_share_of_the_cores_is_bound_to_none(models_dir: Path) -> None:
    """Every process would take the same ones: two workers of one thread each then share one core."""
    (graph,) = (models_dir / "all-MiniLM-L6-v2").glob("*/model.onnx")
    assert not is_confined(graph, 1)
    assert is_confined(graph, visible_cores())


if __name__ == "__main__":
    print(confined(Path(sys.argv[1]), int(sys.argv[2])))  # noqa: T201
