"""Workers as processes, alone or several on PostgreSQL and Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from servers.worker import WorkerProcess


@pytest.fixture
def start(models_dir: Path, tmp_path: Path) -> Iterator[Callable[..., WorkerProcess]]:
    """Start workers over one data folder; all are stopped at the end."""
    started: list[WorkerProcess] = []

    def launch(**environ: str) -> WorkerProcess:
        started.append(WorkerProcess(tmp_path, models_dir, environ))
        return started[-1]

    yield launch
    for worker in started:
        worker.kill()


@pytest.fixture(scope="module")
def live(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    """One ready worker for a module."""
    worker = WorkerProcess(tmp_path_factory.mktemp("live"), models_dir, {})
    worker.wait_ready()
    yield worker
    assert worker.stop() == 0
