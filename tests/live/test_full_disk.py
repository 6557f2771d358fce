"""A disk that fills under a running worker: what cannot be recorded is refused, and all goes on once there is room."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from servers.worker import WorkerProcess

EMBED = "/v1/text/embed"
DISK_BYTES = 8 * 2**20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of eight megabytes, in memory."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a disk of its own")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("this machine lets nobody mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Take all the room that is left on a disk, and return the file that has it."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        size = 2**16
        while size:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2
    return filler


def test_a_full_disk_refuses_what_cannot_be_recorded(disk: Path, tmp_path: Path, text_models: Path) -> None:
    """Journal and database are both on it. Answered calls are in the ledger, once; the refused ones are not billed."""
    worker = WorkerProcess(tmp_path, text_models, {"DATA_DIR": str(disk)})
    try:
        worker.wait_ready()
        key = worker.key(email="ann@example.org")
        answered = 0
        for number in range(20):
            answered += worker.post(EMBED, {"texts": [f"before {number}"]}, key)[0] == 200
        assert answered == 20
        filler = fill(disk)
        refused = 0
        # Some may fit into what was given to the journal's file already: a disk gives whole pages.
        for number in range(80):
            status, body = worker.post(EMBED, {"texts": [f"full {number}"]}, key)
            assert status in (200, 503), body
            if status == 503:
                refused += 1
                problem = json.loads(body)
                assert problem["code"] == "unavailable", problem
                assert "usage journal cannot be written" in problem["detail"]
            answered += status == 200
        assert refused > 20
        assert worker.get("/livez")[0] == 200
        filler.unlink()
        for number in range(20):
            assert worker.post(EMBED, {"texts": [f"after {number}"]}, key)[0] == 200
            answered += 1
        assert worker.stop() == 0
        report = json.loads(worker.run("usage", "report", "--organisation", "ann@example.org", "--json"))
        assert (report["total"]["requests"], report["total"]["billed"]) == (answered, answered)
        assert worker.run("usage", "reconcile") == ""
        log = worker.log.read_text()
        assert "Traceback" not in log
    finally:
        worker.kill()
