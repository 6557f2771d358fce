"""Workers as processes, alone or several on PostgreSQL and Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from servers.worker import WorkerProcess


@pytest.fixture
def start(text_models: Path, tmp_path: Path) -> Iterator[Callable[..., WorkerProcess]]:
    """Start workers over one data folder, with the text model unless told otherwise; all are stopped at the end."""
    started: list[WorkerProcess] = []

    def launch(**environ: str) -> WorkerProcess:
        started.append(WorkerProcess(tmp_path, text_models, environ))
        return started[-1]

    yield launch
    for worker in started:
        worker.kill()


@pytest.fixture(scope="module")
def texts(text_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    """One ready worker with the text model for a module, with both edges."""
    worker = WorkerProcess(tmp_path_factory.mktemp("texts"), text_models, {"GRPC_PORT": "0"})
    worker.wait_ready()
    yield worker
    assert worker.stop() == 0


@pytest.fixture(scope="module")
def live(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    """One ready worker with all models for a module."""
    worker = WorkerProcess(tmp_path_factory.mktemp("live"), models_dir, {})
    worker.wait_ready()
    yield worker
    assert worker.stop() == 0
