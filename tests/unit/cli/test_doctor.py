"""`phalanx doctor` explains a wrong set-up, in plain words and without secrets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from phalanx.cli.doctor import Finding, examine
from servers import RedisServer


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    return monkeypatch


@pytest.fixture
def forgetful() -> Iterator[RedisServer]:
    """A Redis that drops keys when it is full."""
    server = RedisServer("--maxmemory-policy", "allkeys-lru")
    try:
        server.start()
        yield server
    finally:
        server.remove()


def found(subject: str) -> list[Finding]:
    return [finding for finding in examine() if finding.subject == subject]


def test_wrong_values_are_all_named(environ: pytest.MonkeyPatch) -> None:
    """And nothing else is looked at."""
    environ.setenv("PORT", "eighty")
    environ.setenv("WORKERS", "2")
    findings = list(examine())
    assert [finding.well for finding in findings] == [True, False, False]
    assert findings[1].found.startswith("PORT: ")
    assert "set DATABASE_URL to a PostgreSQL database and REDIS_URL" in found("settings")[1].found


def test_a_folder_that_cannot_be_made_is_said(environ: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever asks: root may write everywhere, but makes no folder in a file."""
    (tmp_path / "file").write_text("x")
    environ.setenv("DATA_DIR", str(tmp_path / "file" / "data"))
    (finding,) = found("data")
    assert finding.well is False
    assert finding.found.endswith("is not writable: Not a directory")


def test_a_database_out_of_reach_is_said_without_its_password(environ: pytest.MonkeyPatch) -> None:
    """The reason, and what to look at."""
    environ.setenv("DATABASE_URL", "postgresql://someone:hidden@127.0.0.1:1/x")
    (finding,) = found("database")
    assert finding.well is False
    assert "hidden" not in "".join(map(str, examine()))


def test_a_redis_that_may_forget_is_refused_for_counters(environ: pytest.MonkeyPatch, forgetful: RedisServer) -> None:
    """As a cache it is welcome."""
    environ.setenv("REDIS_URL", forgetful.url)
    first = found("redis")[0]
    assert first.well is False
    assert "'allkeys-lru'" in first.found
    environ.delenv("REDIS_URL")
    environ.setenv("REDIS_CACHE_URL", forgetful.url)
    assert [finding.well for finding in found("redis")] == [True]


def test_a_redis_that_may_forget_is_refused_for_queues(environ: pytest.MonkeyPatch, forgetful: RedisServer) -> None:
    environ.setenv("QUEUE_REDIS_URL", forgetful.url)
    (only,) = found("redis")
    assert only.well is False
    assert only.found.startswith("QUEUE_REDIS_URL: its maxmemory-policy is")


def test_a_good_redis_and_one_out_of_reach(environ: pytest.MonkeyPatch, redis_server: RedisServer) -> None:
    """The one answers; the other is a failure that says its setting."""
    environ.setenv("REDIS_URL", redis_server.url)
    environ.setenv("REDIS_CACHE_URL", "redis://:hidden@127.0.0.1:1/0")
    good, bad = found("redis")
    assert (good.well, bad.well) == (True, False)
    assert bad.found.startswith("REDIS_CACHE_URL: ")
    assert "hidden" not in bad.found


def test_one_worker_is_said_to_be_one(environ: pytest.MonkeyPatch) -> None:
    """With the reason."""
    assert "DATABASE_URL is SQLite" in found("workers")[0].found


def test_a_qdrant_out_of_reach_is_said_without_its_key(environ: pytest.MonkeyPatch) -> None:
    environ.setenv("QDRANT_URL", "http://secret-key@127.0.0.1:9")
    (finding,) = found("qdrant")
    assert finding.well is False
    assert "cannot be reached" in finding.found
    assert "secret-key" not in f"{finding.found} {finding.remedy}"


def test_shared_stores_without_a_qdrant_are_pointed_out(environ: pytest.MonkeyPatch) -> None:
    environ.setenv("DATABASE_URL", "postgresql://127.0.0.1:9/none")
    environ.setenv("REDIS_URL", "redis://127.0.0.1:9")
    (finding,) = found("qdrant")
    assert finding.well is None
    assert "QDRANT_URL" in finding.found


def test_the_models_of_all_services_are_looked_for(environ: pytest.MonkeyPatch) -> None:
    """The text model must be here; the others only where a service was named that needs them."""
    names = ("all-MiniLM-L6-v2", "blazeface-full-range", "blazeface-short-range", "dlib-resnet-v1")
    findings = found("model")
    assert [finding.well for finding in findings] == [False, None, None, None]
    assert [finding.remedy for finding in findings] == [f"phalanx models pull {name}" for name in names]
    environ.setenv("SERVICES", "face-detection")
    detectors = [f"phalanx models pull {name}" for name in names[1:3]]
    assert [(f.well, f.remedy) for f in found("model")] == [(True, ""), *((False, remedy) for remedy in detectors)]
    environ.setenv("SERVICES", "image-processing")
    assert [(f.well, f.remedy) for f in found("model")] == [(True, ""), *((None, remedy) for remedy in detectors)]
    environ.setenv("SERVICES", "similarity")
    assert [f.well for f in found("model")] == [True]


def test_a_model_that_no_catalogue_has_is_not_to_be_pulled(environ: pytest.MonkeyPatch) -> None:
    environ.setenv("SERVICES", "text")
    environ.setenv("MODEL_NAME", "nobody-made-this")
    ((well, _, said, remedy),) = found("model")
    assert (well, "all-MiniLM-L6-v2" in said, remedy) == (False, True, "set MODEL_NAME to one of them")
