"""Every model, faces too, in `/v1/models`, `/health`, `/api/status` and the metrics."""

from __future__ import annotations

from typing import Any

from prometheus_client import generate_latest

NAMES = {
    "all-MiniLM-L6-v2": ("text-embedding", 384, "Apache-2.0"),
    "blazeface-full-range": ("face-detection", 0, "Apache-2.0"),
    "dlib-resnet-v1": ("face-embedding", 128, "CC0-1.0"),
}


def test_the_models_are_listed_with_their_facts(worker: Any) -> None:
    listed = {model["id"]: model for model in worker.get("/v1/models").json["data"]}
    assert listed.keys() == NAMES.keys()
    for name, (task, dimensions, licence) in NAMES.items():
        model = listed[name]
        assert (model["task"], model["dimensions"], model["licence"]) == (task, dimensions, licence)
        assert model["ready"] is True
        assert model["sha256"].startswith(model["version"][:12])
        assert model["weights"] == {model["version"]: 1.0}
        assert model["created"] > 1_600_000_000
        assert worker.get(f"/v1/models/{name}").json == model


def test_an_alias_finds_a_face_model_and_nothing_else_does(worker: Any) -> None:
    found = worker.get("/v1/models/dlib_face_recognition_resnet_model_v1")
    assert found.json["id"] == "dlib-resnet-v1"
    missing = worker.get("/v1/models/nobody")
    assert missing.status == 404
    assert "dlib-resnet-v1" in missing.json["error"]["message"]


def test_health_and_status_name_every_model(worker: Any) -> None:
    health = worker.get("/health", key=None).json
    assert health["status"] == "healthy"
    assert {model["name"] for model in health["models"]} == NAMES.keys()
    assert all(model["ready"] and model["version"] and model["error"] is None for model in health["models"])
    status = worker.get("/api/status").json
    assert status["models"] == health["models"]
    assert status["queues"].keys() == NAMES.keys()
    assert all(queue["batches"] >= 1 for queue in status["queues"].values())


def test_metrics_have_each_model_and_version(worker: Any) -> None:
    text = generate_latest(worker.app.metrics.registry).decode()
    for model in worker.get("/v1/models").json["data"]:
        labels = f'model="{model["id"]}",version="{model["version"]}"'
        assert f"phalanx_engine_seconds_count{{{labels}}}" in text
        assert f"phalanx_queue_tokens{{{labels}}} 0.0" in text
        assert f'phalanx_model_info{{device="cpu",model="{model["id"]}"' in text
