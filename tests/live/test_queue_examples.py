"""The producers in examples/queue do what they say, Node's too."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from live.queues import QueueProcess
from pictures import astronaut, saved
from servers import RedisServer
from servers.worker import PHALANX

EXAMPLES = Path(__file__).parents[2] / "examples" / "queue"


@pytest.fixture
def queue_url(redis_server: RedisServer, models_dir: Path, tmp_path: Path) -> Iterator[str]:
    """The Redis of a queue `app` that a worker takes jobs from, as a key of its own."""
    redis_server.flush()
    known = {"DATA_DIR": str(tmp_path), "QUEUE_REDIS_URL": redis_server.url}
    words = [
        PHALANX,
        "keys",
        "create",
        "app@example.org",
        "--tier",
        "scale",
        "--scope",
        "text",
        "--scope",
        "images",
        "--json",
    ]
    made = subprocess.run(words, env=known, capture_output=True, text=True, check=True, cwd=tmp_path)
    bound = f"app={json.loads(made.stdout)['record']['id']}"
    worker = QueueProcess(tmp_path, models_dir, known, command=[PHALANX, "work", bound])
    try:
        yield redis_server.url
    finally:
        worker.kill()


def lines_of(command: list[str], url: str, status: int) -> list[dict[str, object]]:
    done = subprocess.run(
        command, env={**os.environ, "REDIS_URL": url}, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == status, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_pythons_producer(queue_url: str) -> None:
    found = lines_of([sys.executable, str(EXAMPLES / "texts.py"), "app", "a cat", "a lorry"], queue_url, 0)
    assert found == [{"text": "a cat", "dimensions": 384}, {"text": "a lorry", "dimensions": 384}]


def test_nodes_producer(queue_url: str, tmp_path: Path) -> None:
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed; the example in JavaScript was not run")
    folder = tmp_path / "example"
    shutil.copytree(EXAMPLES, folder)
    npm = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts"]
    subprocess.run(npm, cwd=folder, check=True, capture_output=True, timeout=300)
    good, bad = tmp_path / "astronaut.png", tmp_path / "broken.png"
    good.write_bytes(saved(astronaut(), "PNG"))
    bad.write_bytes(b"no image")
    found = lines_of(["node", str(folder / "images.mjs"), "app", str(good), str(bad)], queue_url, 1)
    assert [one["picture"] for one in found] == ["astronaut.png", "broken.png"]
    report = found[0]["result"]
    assert isinstance(report, dict)
    assert (report["width"], report["height"]) == astronaut().shape[1::-1]
    assert found[1]["error"]["code"] == "unreadable_input"  # type: ignore[index]


def test_the_lock_of_the_example_names_no_host() -> None:
    locked = json.loads((EXAMPLES / "package-lock.json").read_text())
    assert locked["packages"]["node_modules/bullmq"]["integrity"]
    assert not [name for name, entry in locked["packages"].items() if "resolved" in entry]
