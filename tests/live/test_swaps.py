"""Hot swaps under load: nobody notices but by the version, and memory comes back."""

from __future__ import annotations

import base64
import http.client
import json
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest

from phalanx.models.store import ModelStore
from pictures import astronaut
from servers import PostgresServer, RedisServer

TEXT, DETECTOR, EMBEDDER = "all-MiniLM-L6-v2", "blazeface-full-range", "dlib-resnet-v1"
FILES = {
    TEXT: ("model.safetensors", ["model.safetensors", "model.onnx"]),
    DETECTOR: ("model.tflite", ["model.tflite"]),
    EMBEDDER: ("model.onnx", ["model.onnx"]),
}
PATIENCE_S = 180.0


@pytest.fixture
def own_models(models_dir: Path, tmp_path: Path) -> Path:
    """A store of one's own, with the text model."""
    folder = tmp_path / "models"
    shutil.copytree(models_dir / TEXT, folder / TEXT, symlinks=True)
    return folder


@pytest.fixture
def own_faces(models_dir: Path, own_models: Path) -> None:
    """The models for faces, in the same store."""
    for folder in {pointer.parent for pointer in models_dir.glob("*/active.json")} - {models_dir / TEXT}:
        shutil.copytree(folder, own_models / folder.name, symlinks=True)


def copy_of(store: ModelStore, name: str, suffix: str = "copy") -> tuple[str, str]:
    """Install the files of the active version under another one; return the names of both."""
    active = store.active(name)
    primary, files = FILES[name]
    paths = {file: active.folder / file for file in files}
    return active.version, store.add_variant(name, active.version, suffix, paths, primary=primary).version


class Callers:
    """Clients that call one after the other until told to stop, each over a connection that it keeps."""

    def __init__(self, worker: Any, key: str, calls: list[tuple[str, Callable[[int], dict[str, Any]]]]) -> None:
        self.answers: Counter[tuple[str, int, str]] = Counter()
        self.failures: list[str] = []
        self._worker, self._key = worker, key
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=call, daemon=True) for call in calls]
        for thread in self._threads:
            thread.start()

    def _run(self, path: str, body: Callable[[int], dict[str, Any]]) -> None:
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        line = http.client.HTTPConnection(self._worker.host, self._worker.port, timeout=30)
        try:
            self._call(line, path, body, headers)
        finally:
            line.close()

    def _call(
        self,
        line: http.client.HTTPConnection,
        path: str,
        body: Callable[[int], dict[str, Any]],
        headers: dict[str, str],
    ) -> None:
        count = 0
        while not self._stop.is_set():
            count += 1
            try:
                line.request("POST", path, json.dumps(body(count)), headers)
                answer = line.getresponse()
                said = answer.read()
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                return
            self.answers[path, answer.status, answer.headers.get("X-Model-Version", "")] += 1
            if answer.status != 200:
                self.failures.append(said.decode())

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=30)

    def versions(self, path: str) -> set[str]:
        return {version for where, status, version in self.answers if where == path and status == 200}


def resident_mib(worker: Any) -> float:
    pages = int(Path(f"/proc/{worker.process.pid}/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def wait_for(condition: Callable[[], bool], what: str, worker: Any) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what}:\n{worker.log.read_text()[-3000:]}"
        assert worker.process.poll() is None, worker.log.read_text()[-3000:]
        time.sleep(0.05)


def seen(worker: Any, event: str, **fields: Any) -> int:
    return sum(
        line.get("event") == event and all(line.get(name) == value for name, value in fields.items())
        for line in worker.lines()
    )


PHOTO = base64.b64encode(cv2.imencode(".jpg", astronaut()[:, :, ::-1])[1].tobytes()).decode()


def text(count: int) -> dict[str, Any]:
    return {"texts": [f"call {count} of {threading.get_ident()}", "something longer that is the same for everyone"]}


def face(count: int) -> dict[str, Any]:
    return {"image": PHOTO, "min_confidence": 0.5 + count % 1000 / 1e5}


@pytest.fixture
def worker(start: Callable[..., Any], own_models: Path) -> Iterator[Any]:
    one = start(MODEL_DIR=str(own_models), REQUEST_TIMEOUT="20000")
    one.wait_ready()
    yield one
    assert one.stop() == 0


@pytest.mark.usefixtures("own_faces")
def test_swaps_under_load_fail_no_call_and_give_memory_back(worker: Any, own_models: Path) -> None:
    store = ModelStore(own_models)
    versions = {name: copy_of(store, name) for name in (TEXT, DETECTOR, EMBEDDER)}
    key = worker.key(scopes=("text", "faces"))
    paths = {TEXT: "/v1/text/embed", DETECTOR: "/v1/faces/detect", EMBEDDER: "/v1/faces/embed"}
    callers = Callers(worker, key, [(paths[TEXT], text), (paths[TEXT], text), (paths[DETECTOR], face), (paths[EMBEDDER], face)])  # fmt: skip

    def swap(count: int) -> None:
        before = seen(worker, "model freed")
        for name, both in versions.items():
            if count == 1:
                worker.run("models", "activate", name, both[1])
            else:
                store.activate(name, both[count % 2])
        wait_for(lambda: seen(worker, "model freed") == before + 3, "not swapped", worker)

    swap(1)
    first = resident_mib(worker)
    for count in range(2, 5):
        swap(count)
    last = resident_mib(worker)
    callers.stop()
    assert callers.failures == []
    assert {status for _, status, _ in callers.answers} == {200}
    assert callers.versions(paths[TEXT]) == set(versions[TEXT])
    assert callers.versions(paths[EMBEDDER]) == set(versions[EMBEDDER])
    assert {version.partition("+")[0] for version in callers.versions(paths[DETECTOR])} == set(versions[DETECTOR])
    assert last - first < 60, (first, last)
    health = json.loads(worker.get("/health")[1])
    assert health["status"] == "healthy"
    assert {model["version"].partition("+")[0] for model in health["models"]} == {both[0] for both in versions.values()}
    assert f'phalanx_model_swaps_total{{model="{TEXT}",outcome="swapped"}} 4.0' in worker.metrics()


def test_a_version_that_fails_takes_no_traffic(worker: Any, own_models: Path) -> None:
    """Its golden check does not hold: the old one serves on, and health, log and metrics say why."""
    store = ModelStore(own_models)
    good, bad = copy_of(store, TEXT, "bad")
    # The same size, so that only the vectors betray it: a copy with two layers' weights exchanged would, zeros do.
    path = store.version(TEXT, bad).folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2**20] = bytes(2**20)
    path.write_bytes(data)
    pointer = own_models / TEXT / "active.json"
    fresh = pointer.with_suffix(".new")
    fresh.write_text(pointer.read_text().replace(f'"{good}"', f'"{bad}"'))
    fresh.replace(pointer)
    worker.wait_for_line("model version refused")
    health = json.loads(worker.get("/health")[1])
    assert health["status"] == "degraded"
    (refused,) = [model for model in health["models"] if not model["ready"]]
    assert (refused["name"], refused["version"]) == (TEXT, bad)
    assert "golden check" in refused["error"]
    assert worker.get("/readyz")[0] == 200
    key = worker.key()
    assert worker.post("/v1/text/embed", {"texts": ["still here"]}, key)[0] == 200
    listed = json.loads(worker.get(f"/v1/models/{TEXT}", key)[1])
    assert (listed["version"], listed["weights"]) == (good, {good: 1.0})
    assert f'phalanx_model_swaps_total{{model="{TEXT}",outcome="refused"}} 1.0' in worker.metrics()
    worker.run("models", "activate", TEXT, good)
    wait_for(lambda: json.loads(worker.get("/health")[1])["status"] == "healthy", "not healthy again", worker)


@pytest.mark.usefixtures("own_faces")
def test_a_model_that_is_pulled_later_serves_without_a_restart(
    start: Callable[..., Any], own_models: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    shutil.move(own_models / EMBEDDER, kept)
    worker = start(MODEL_DIR=str(own_models))
    worker.wait_ready()
    key = worker.key(scopes=("faces",))
    status, body = worker.post("/v1/faces/embed", {"image": PHOTO}, key)
    assert (status, b"phalanx models pull dlib-resnet-v1" in body) == (503, True)
    assert json.loads(worker.get("/health")[1])["status"] == "healthy"
    shutil.copytree(kept, own_models / ".work" / "arriving")
    (own_models / ".work" / "arriving").rename(own_models / EMBEDDER)
    wait_for(lambda: worker.post("/v1/faces/embed", {"image": PHOTO}, key)[0] == 200, "not served", worker)


def test_several_workers_swap_once_all_have_the_version_warm(
    start: Callable[..., Any], own_models: Path, postgres: PostgresServer, redis_server: RedisServer
) -> None:
    """Both have it warm before the first of them swaps."""
    redis_server.flush()
    worker = start(
        MODEL_DIR=str(own_models), WORKERS="2", DATABASE_URL=postgres.create_database(), REDIS_URL=redis_server.url,
        JWT_SECRET="for-tests-only-" * 4, REQUEST_TIMEOUT="20000",
    )  # fmt: skip
    worker.wait_ready()
    wait_for(lambda: seen(worker, "accepting") == 2, "not accepting", worker)
    store = ModelStore(own_models)
    old, new = copy_of(store, TEXT)
    callers = Callers(worker, worker.key(), [("/v1/text/embed", text)] * 3)
    worker.run("models", "activate", TEXT, new)
    wait_for(lambda: seen(worker, "model freed", version=old) == 2, "not swapped", worker)
    callers.stop()
    assert callers.failures == []
    assert callers.versions("/v1/text/embed") == {old, new}
    lines = [
        line for line in worker.lines()
        if (line.get("event"), line.get("model")) == ("model swapped", TEXT)
        or (line.get("event"), line.get("version")) == ("model warm", new)
    ]  # fmt: skip
    assert [line["event"] for line in lines] == ["model warm", "model warm", "model swapped", "model swapped"]
    assert len({line["worker"] for line in lines[:2]}) == 2


def test_two_versions_share_the_callers(worker: Any, own_models: Path) -> None:
    """Each organisation has one of them for good; caches keep them apart; the header and the metrics say which."""
    store = ModelStore(own_models)
    old, new = copy_of(store, TEXT)
    keys = [worker.key(f"caller{number}@example.org") for number in range(6)]
    callers = [
        Callers(worker, key, [("/v1/text/embed", lambda count: {"texts": [f"text {count % 5}"]})]) for key in keys
    ]
    worker.run("models", "activate", TEXT, f"{old}=50", f"{new}=50")
    wait_for(lambda: seen(worker, "model swapped", model=TEXT) == 1, "not swapped", worker)
    for one in callers:
        one.stop()
        assert one.failures == []
    after = [Callers(worker, key, [("/v1/text/embed", text)]) for key in keys]
    wait_for(lambda: all(one.answers.total() > 10 for one in after), "not answered", worker)
    for one in after:
        one.stop()
        assert len(one.versions("/v1/text/embed")) == 1
    assert set().union(*(one.versions("/v1/text/embed") for one in after)) == {old, new}
    listed = json.loads(worker.get(f"/v1/models/{TEXT}", keys[0])[1])
    assert listed["weights"] == {old: 0.5, new: 0.5}
    for version in (old, new):
        assert f'phalanx_tokens_total{{model="{TEXT}",version="{version}"}}' in worker.metrics()
    worker.run("models", "activate", TEXT, new)
    wait_for(lambda: seen(worker, "model freed", version=old) == 1, "not freed", worker)
    assert worker.post("/v1/text/embed", {"texts": ["still here"]}, keys[0])[0] == 200
