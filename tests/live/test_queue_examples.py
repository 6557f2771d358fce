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
from pictures import astronaut, quarters, saved
from servers import RedisServer
from servers.worker import PHALANX, make_key

EXAMPLES = Path(__file__).parents[2] / "examples" / "queue"


@pytest.fixture(scope="module")
def queue_url(redis_server: RedisServer, models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The Redis of a queue `app` that a worker takes jobs from, as a key of its own."""
    redis_server.flush()
    tmp_path = tmp_path_factory.mktemp("queue")
    known = {"DATA_DIR": str(tmp_path), "QUEUE_REDIS_URL": redis_server.url}
    key = make_key(known, tmp_path, "app@example.org", scopes=("text", "images", "faces"))
    # Only one process may open collections in files: this one is made before the worker is there.
    words = [PHALANX, "collections", "create", "people", "faces", "--organisation", "app@example.org"]
    known_models = {**known, "MODEL_DIR": str(models_dir)}
    subprocess.run(words, env=known_models, capture_output=True, text=True, check=True, cwd=tmp_path)
    bound = f"app={key.record.id}"
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples with what their lock says."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed; the examples in JavaScript were not run")
    copied = tmp_path_factory.mktemp("node") / "example"
    shutil.copytree(EXAMPLES, copied)
    npm = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    done = subprocess.run(npm, cwd=copied, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return copied


def test_nodes_producer(queue_url: str, folder: Path, tmp_path: Path) -> None:
    good, bad = tmp_path / "astronaut.png", tmp_path / "broken.png"
    good.write_bytes(saved(astronaut(), "PNG"))
    bad.write_bytes(b"no image")
    found = lines_of(["node", str(folder / "images.mjs"), "app", str(good), str(bad)], queue_url, 1)
    assert [one["picture"] for one in found] == ["astronaut.png", "broken.png"]
    report = found[0]["result"]
    assert isinstance(report, dict)
    assert (report["width"], report["height"]) == astronaut().shape[1::-1]
    assert found[1]["error"]["code"] == "unreadable_input"  # type: ignore[index]


def test_a_face_applications_pipeline_in_node(queue_url: str, folder: Path, tmp_path: Path) -> None:
    picture, empty = tmp_path / "astronaut.jpg", tmp_path / "nobody.png"
    picture.write_bytes(saved(astronaut(), "JPEG", quality=92))
    empty.write_bytes(saved(quarters(320, 240), "PNG"))
    command = ["node", str(folder / "faces.mjs"), "app", "people", "u-1"]
    *told, result = lines_of([*command, str(picture)], queue_url, 0)
    assert [one["stage"] for one in told] == ["detect", "quality", "align", "embed", "store"]
    assert (result["person"], result["model"], result["created"]) == ("u-1", "dlib-resnet-v1", True)
    again = lines_of([*command, str(picture)], queue_url, 0)[-1]
    assert again == {**result, "created": False}
    *told, failure = lines_of([*command, str(empty)], queue_url, 1)
    assert [one["stage"] for one in told] == ["detect"]
    assert failure["error"]["code"] == "no_face"  # type: ignore[index]
    (failure,) = [one for one in lines_of([*command, "https://photos.example/a.jpg"], queue_url, 1) if "error" in one]
    assert "IMAGE_URL_ALLOW" in failure["error"]["detail"]  # type: ignore[index]


def test_the_lock_of_the_example_names_no_host() -> None:
    locked = json.loads((EXAMPLES / "package-lock.json").read_text())
    assert locked["packages"]["node_modules/bullmq"]["integrity"]
    assert not [name for name, entry in locked["packages"].items() if "resolved" in entry]
    assert "http" not in (EXAMPLES / "package-lock.json").read_text()
    # For each of them, or else `npm ci` refuses the lock.
    native = locked["packages"]["node_modules/msgpackr-extract"]["optionalDependencies"]
    assert {f"node_modules/{name}" for name in native} <= set(locked["packages"])
