"""The services of a face application, each in a worker of its own: it answers its route, and says who has the others'."""

from __future__ import annotations

import base64
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pictures import astronaut
from servers import PostgresServer, RedisServer
from servers.process import free_port
from servers.worker import PHALANX, START_S, WorkerProcess

PHOTO = base64.b64encode(cv2.imencode(".jpg", astronaut()[:, :, ::-1])[1].tobytes()).decode()
REQUESTS: dict[str, tuple[str, Any]] = {
    "face-detection": ("/api/detect-face", {"image": PHOTO}),
    "face-embedding": ("/api/extract-embedding", {"image": PHOTO}),
    "image-processing": ("/api/process-image", {"image": PHOTO, "operations": [{"align": {"template": "dlib"}}]}),
    "similarity": ("/api/calculate-similarity", {"a": [1.0, 2.0], "b": [2.0, 1.0]}),
}
MODELS: dict[str, list[str]] = {
    "face-detection": ["blazeface-full-range"],
    "face-embedding": ["blazeface-full-range", "dlib-resnet-v1"],
    "image-processing": ["blazeface-full-range"],
    "similarity": [],
}
OPEN = {"ANONYMOUS_SCOPES": "faces,images,vectors"}


@pytest.fixture(scope="module")
def four(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, WorkerProcess]]:
    """Four workers beside each other over one data folder, as one starts them on one machine."""
    folder = tmp_path_factory.mktemp("four")
    only_faces = tmp_path_factory.mktemp("models")
    for name in (*MODELS["face-embedding"], "blazeface-short-range"):
        (only_faces / name).symlink_to(models_dir / name)
    started = {
        service: WorkerProcess(folder, only_faces, OPEN, command=(PHALANX, "serve", service)) for service in REQUESTS
    }
    for worker in started.values():
        worker.wait_ready()
    yield started
    assert [worker.stop() for worker in started.values()] == [0] * 4


@pytest.mark.parametrize("service", REQUESTS)
def test_each_answers_its_own_route_and_refuses_the_others(four: dict[str, WorkerProcess], service: str) -> None:
    """Without a credential; the refusal is a 404 in the original's envelope and names the service."""
    for other, (path, body) in REQUESTS.items():
        status, answer = four[service].post(path, body)
        if other == service:
            assert status == 200, answer
            continue
        assert status == 404
        error = json.loads(answer)["error"]
        assert error["code"] == "not_found"
        assert repr(other) in error["message"]


def test_the_answers_are_those_of_the_application(four: dict[str, WorkerProcess]) -> None:
    found = {service: json.loads(four[service].post(*REQUESTS[service])[1]) for service in REQUESTS}
    assert len(found["face-detection"]["faces"]) == 1
    assert len(found["face-embedding"]["embedding"]) == 128
    assert (found["image-processing"]["width"], found["image-processing"]["format"]) == (150, "jpeg")
    assert np.isclose(found["similarity"]["similarity"], 0.8)


@pytest.mark.parametrize("service", REQUESTS)
def test_health_speaks_of_its_own_models_only(four: dict[str, WorkerProcess], service: str) -> None:
    """There is no text model here, and nobody misses it."""
    for path in ("/health", "/api/health"):
        status, answer = four[service].get(path)
        assert status == 200
        health = json.loads(answer)
        assert health["status"] == "healthy"
        assert [model["name"] for model in health["models"]] == MODELS[service]
    assert four[service].get("/readyz")[0] == four[service].get("/startupz")[0] == 200


@pytest.mark.parametrize("service", REQUESTS)
def test_info_tells_what_is_served_without_texts(four: dict[str, WorkerProcess], service: str) -> None:
    """The model of face vectors, else the detector, else none; nothing about texts."""
    status, answer = four[service].get("/info")
    info = json.loads(answer)
    assert (status, info["status"], info["services"], info["models"]) == (200, "ready", [service], MODELS[service])
    assert info.get("model_id") == (MODELS[service][-1] if MODELS[service] else None)
    assert info.get("embedding_dim") == (128 if service == "face-embedding" else None)
    assert not {"max_input_length", "max_batch_tokens", "model_type"} & info.keys()


def test_only_the_routes_of_the_service_are_documented(four: dict[str, WorkerProcess]) -> None:
    paths = json.loads(four["similarity"].get("/openapi.json")[1])["paths"]
    assert {"/api/calculate-similarity", "/v1/vectors/similarity", "/v1/keys", "/health"} <= paths.keys()
    assert not [path for path in paths if "face" in path or "image" in path or path.startswith(("/v1/text", "/embed"))]


def test_what_every_worker_has_is_there(four: dict[str, WorkerProcess]) -> None:
    """Keys made beside the workers count at each of them, and are asked for where no scope is open."""
    key = four["similarity"].key(scopes=("vectors", "faces", "admin"))
    for service, worker in four.items():
        assert worker.get("/api/status")[0] in (401, 403)
        status, answer = worker.get("/v1/models", key)
        assert status == 200
        assert [model["id"] for model in json.loads(answer)["data"]] == MODELS[service]
        assert worker.get("/api/status", key)[0] == 200


def rss_mib(worker: WorkerProcess) -> float:
    pages = int(Path(f"/proc/{worker.process.pid}/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def test_a_service_alone_takes_less_memory(four: dict[str, WorkerProcess]) -> None:
    """Only its models are loaded. Measured: 158, 271, 271 and 328 MiB."""
    sizes = {service: rss_mib(worker) for service, worker in four.items()}
    assert sizes["similarity"] < sizes["face-detection"] < sizes["face-embedding"] < 600
    assert sizes["similarity"] < 260


@pytest.fixture
def serve(models_dir: Path, tmp_path: Path) -> Iterator[Callable[..., WorkerProcess]]:
    """Start `phalanx serve` with words and an environment."""
    started: list[WorkerProcess] = []

    def launch(*words: str, models: Path = models_dir, **environ: str) -> WorkerProcess:
        worker = WorkerProcess(tmp_path, models, {**OPEN, **environ}, command=(PHALANX, "serve", *words))
        started.append(worker)
        return worker

    yield launch
    for worker in started:
        worker.kill()


def test_several_services_may_be_named(serve: Callable[..., WorkerProcess]) -> None:
    """By argument or by SERVICES, of which the argument wins; the rest is refused."""
    for worker in (
        serve("similarity", "image-processing"), serve(SERVICES="similarity,images"),
        serve("similarity", "images", SERVICES="text"),
    ):  # fmt: skip
        worker.wait_ready()
        outcomes = {service: worker.post(*REQUESTS[service])[0] for service in REQUESTS}
        assert outcomes == {
            "face-detection": 404, "face-embedding": 404, "image-processing": 200, "similarity": 200,
        }  # fmt: skip
        assert worker.post("/v1/text/embed", {"texts": ["a"]})[0] == 404
        assert worker.stop() == 0


def test_text_alone_needs_no_faces(serve: Callable[..., WorkerProcess]) -> None:
    worker = serve("text", ANONYMOUS_SCOPES="text")
    worker.wait_ready()
    assert worker.post("/v1/text/embed", {"texts": ["a"]})[0] == 200
    assert worker.post("/v1/embed", {"text": "a"})[0] == 200
    assert [model["name"] for model in json.loads(worker.get("/health")[1])["models"]] == ["all-MiniLM-L6-v2"]


def test_a_service_without_its_model_is_not_ready_and_says_what_to_run(
    serve: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    """Images are processed without the detector, which only `align` needs."""
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    faces = serve("face-detection", models=nothing)
    faces.wait_for_line("model missing")
    status, answer = faces.get("/readyz")
    assert status == 503
    assert "phalanx models pull blazeface-" in answer.decode()
    assert faces.get("/health")[0] == 503
    assert faces.post(*REQUESTS["face-detection"])[0] == 503
    images = serve("image-processing", models=nothing)
    images.wait_ready()
    assert json.loads(images.get("/health")[1])["status"] == "healthy"
    assert images.post("/api/process-image", {"image": PHOTO, "operations": [{"resize": {"width": 9}}]})[0] == 200
    assert images.post(*REQUESTS["image-processing"])[0] == 503


def test_a_port_that_is_given_wins(serve: Callable[..., WorkerProcess]) -> None:
    port = free_port()
    worker = serve("similarity", "--port", str(port), PORT="1")
    assert worker.port == port
    assert worker.get("/livez")[0] == 200


def until(worker: WorkerProcess, series: str) -> None:
    """Wait for a line of the metrics, which workers report now and then."""
    deadline = time.monotonic() + START_S
    while series not in worker.metrics():
        assert time.monotonic() < deadline, worker.log.read_text()[-4000:]
        time.sleep(0.1)


def test_several_workers_of_one_service_share_what_they_found(
    serve: Callable[..., WorkerProcess], postgres: PostgresServer, redis_server: RedisServer
) -> None:
    """Under a supervisor; an image that one of them saw is known to both."""
    shared = {
        "DATABASE_URL": postgres.create_database(), "REDIS_URL": redis_server.url.removesuffix("/0") + "/10",
        "JWT_SECRET": "for-tests-only-" * 4, "RATE_LIMIT_ENABLED": "false",
    }  # fmt: skip
    both = serve("face-detection", "--workers", "2", **shared)
    both.wait_ready()
    until(both, 'phalanx_workers{state="ready"} 2.0')
    # Each request is a connection of its own, so that either may get it.
    answers = [json.loads(both.post(*REQUESTS["face-detection"])[1]) for _ in range(20)]
    assert [answer["cached"] for answer in answers].count(False) == 1
    assert both.post(*REQUESTS["similarity"])[0] == 404
    until(both, 'phalanx_cache_hits_total{tier="2"} 1.0')
    assert both.stop() == 0


@pytest.mark.parametrize("words", [("face-detecting",), ("similarity", "all", "faces-detection")])
def test_a_name_that_is_no_service_is_refused(words: tuple[str, ...], tmp_path: Path) -> None:
    done = subprocess.run(
        [PHALANX, "serve", *words], env={"PATH": "/bin", "DATA_DIR": str(tmp_path)}, capture_output=True, text=True,
        check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    assert "no such service" in done.stderr
    assert "face-detection" in done.stderr
    assert "Traceback" not in done.stderr
