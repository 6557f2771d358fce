"""`phalanx doctor` on the workers that TEXT_URL and its kin name: what is found, and what is to be done."""

from __future__ import annotations

import dataclasses
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2_grpc

from edges.rpc import RpcClient
from phalanx.app.remote_look import Seen, look_at_remote
from phalanx.cli.doctor import Finding, examine
from phalanx.settings import load

KEY = "gateway@example.org"


@pytest.fixture(scope="module")
def rpc(worker: Any) -> Iterator[RpcClient]:
    client = RpcClient(worker)
    client.serving.update(dict.fromkeys(client.edge.services, True))
    yield client
    client.close()


def seen(worker: Any, folder: Path, **environ: str) -> list[Seen]:
    settings = load(environ, folder=folder).settings
    found: list[Seen] = worker.run(look_at_remote(settings))
    return found


def at(rpc: RpcClient) -> str:
    return f"grpc://127.0.0.1:{rpc.server.port}"


def test_a_worker_that_will_do_is_said_to(worker: Any, rpc: RpcClient, tmp_path: Path) -> None:
    """For each noun, once it says that it serves; nothing is computed for it."""
    key = worker.key(email="looker@example.org", scopes=("text", "faces", "images", "vectors"))
    environ = {f"{noun}_URL": at(rpc) for noun in ("TEXT", "FACES", "IMAGES", "VECTORS")}
    deadline = time.monotonic() + 30.0
    found: list[Seen] = []
    while [one.well for one in found] != [True] * 4:
        assert time.monotonic() < deadline, found
        found = seen(worker, tmp_path, SERVICE_KEY=key, **environ)
    assert [one.found.partition(":")[0] for one in found] == ["FACES_URL", "IMAGES_URL", "TEXT_URL", "VECTORS_URL"]
    totals = worker.totals("looker@example.org")
    assert totals.tokens == 0


def test_a_key_that_will_not_do_is_said(worker: Any, rpc: RpcClient, tmp_path: Path) -> None:
    """None, a wrong one, one with another scope; and how to make one that does."""
    narrow = worker.key(scopes=("usage",), email="narrow@example.org")
    for key, said in (("", "SERVICE_KEY is not set"), ("fe_wrong", "does not know"), (narrow, "other things only")):
        (one,) = seen(worker, tmp_path, TEXT_URL=at(rpc), SERVICE_KEY=key)
        assert one.well is False
        assert said in one.found
        assert "--scope text" in one.remedy or "scope text" in one.remedy
        assert key == "" or key not in "".join(map(str, one))


def test_where_nobody_is_or_something_else_is(worker: Any, rpc: RpcClient, tmp_path: Path) -> None:
    """A closed port, a silent one, TLS asked of one in clear."""
    silent = socket.create_server(("127.0.0.1", 0))
    port = silent.getsockname()[1]
    try:
        (mute,) = seen(worker, tmp_path, TEXT_URL=f"grpc://127.0.0.1:{port}")
    finally:
        silent.close()
    (closed,) = seen(worker, tmp_path, TEXT_URL=f"grpc://127.0.0.1:{port}")
    (in_clear,) = seen(worker, tmp_path, TEXT_URL=at(rpc).replace("grpc:", "grpcs:"))
    assert [one.well for one in (mute, closed, in_clear)] == [False] * 3
    assert "does not speak gRPC in clear" in mute.found
    assert "grpcs://" in mute.remedy
    assert "nobody takes connections" in closed.found
    assert "GRPC_PORT" in closed.remedy
    assert "does not speak TLS" in in_clear.found
    assert "SERVICE_TLS_CA_FILE" in in_clear.remedy


def test_a_worker_without_the_service_or_of_another_kind(worker: Any, tmp_path: Path) -> None:
    """SERVICES there, another version, another server altogether."""
    rows = worker.app.operations
    elsewhere = {name: row for name, row in rows.items() if row.service == "text"}
    here = {name: row for name, row in rows.items() if name not in elsewhere}
    app = dataclasses.replace(worker.app, operations=here, elsewhere=elsewhere)
    without = RpcClient(SimpleNamespace(app=app, run=worker.run, key=worker.key))
    try:
        (one,) = seen(worker, tmp_path, TEXT_URL=at(without))
    finally:
        without.close()
    assert (one.well, one.remedy) == (False, "look at SERVICES there")
    assert "text.embed, text.embed_tokens" in one.found

    async def with_health(*, has_it: bool) -> list[Seen]:
        server = grpc.aio.server()
        if has_it:
            health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            return await look_at_remote(load({"TEXT_URL": f"grpc://127.0.0.1:{port}"}, folder=tmp_path).settings)
        finally:
            await server.stop(0)

    (old,), (other,) = (worker.run(with_health(has_it=has_it)) for has_it in (True, False))
    assert "does not know text.embed" in old.found
    assert "version" in old.remedy
    assert "no worker of Phalanx" in other.found


def test_addresses_with_different_models_are_noted(worker: Any, rpc: RpcClient, tmp_path: Path) -> None:
    """One text would have two vectors, by the address that it came to."""
    other = RpcClient(worker)
    method = other.edge.schema.methods["models.list"]
    real = other.edge._handlers[method.path]

    async def none(messages: Any, context: Any) -> bytes:
        return b""

    other.edge._handlers[method.path] = real._replace(stream_unary=none)
    try:
        found = seen(worker, tmp_path, TEXT_URL=f"{at(rpc)},{at(other)}", SERVICE_KEY=worker.key(email=KEY))
    finally:
        other.close()
    assert found[-1].well is None
    assert "different models" in found[-1].found
    assert f"127.0.0.1:{other.server.port} has no model" in found[-1].found


def test_doctor_says_it_and_asks_for_no_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With a model that is elsewhere none is missing here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("TEXT_URL", "grpc://127.0.0.1:9")
    findings: list[Finding] = list(examine())
    assert [one.well for one in findings if one.subject == "model" and "TEXT_URL" in one.found] == [True]
    assert not [one for one in findings if one.subject == "model" and one.well is False]
    (remote,) = (one for one in findings if one.subject == "remote")
    assert remote.well is False
    assert remote.remedy
