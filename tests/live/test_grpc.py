"""Workers as processes, over gRPC: one beside its HTTP edge, and several on one port."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from phalanx.edges.grpc.schema import Schema
from phalanx.operations import table
from servers import PostgresServer, RedisServer
from servers.worker import PHALANX, START_S, WorkerProcess

EXAMPLE = Path(__file__).parents[2] / "examples" / "grpc" / "call.py"
REDIS_NUMBER = 11
SERVING = health_pb2.HealthCheckResponse.SERVING
METHODS = Schema(table()).methods
ROWS = table()


def ask(port: int, name: str, key: str, timeout_s: float = 30.0, **request: Any) -> Any:
    """Call a row once, over a connection of its own."""
    method = METHODS[name]
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel:
        call = channel.unary_unary(method.path)
        metadata = [("authorization", f"Bearer {key}")]
        message = method.request_of(ROWS[name].request(**request))
        return method.response_of(call(message, metadata=metadata, timeout=timeout_s))


def test_one_worker_serves_both_edges_until_it_is_told_to_stop(start: Callable[..., Any]) -> None:
    """The same answer by HTTP and gRPC, on the loop of the one worker; health says SERVING; SIGTERM ends it in order."""
    worker = start(GRPC_PORT="0")
    worker.wait_ready()
    port = worker.wait_for_line("listening")["grpc_port"]
    key = worker.key()
    over_grpc = ask(port, "text.embed", key, texts=["Hello world"])
    over_http = json.loads(worker.post("/v1/text/embed", {"texts": ["Hello world"]}, key)[1])
    assert over_grpc.embeddings[0].tolist() == pytest.approx(over_http["embeddings"][0], abs=1e-7)
    assert over_http["items"][0]["cached"] is True
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        health, deadline = health_pb2_grpc.HealthStub(channel), time.monotonic() + START_S
        # It looks once a second whether the worker is ready.
        while health.Check(health_pb2.HealthCheckRequest(), timeout=10.0).status != SERVING:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        count = METHODS["example.count"]
        stream = channel.unary_stream(count.path)(
            count.request_of(ROWS["example.count"].request(to=8, pause_ms=100)),
            metadata=[("authorization", f"Bearer {key}")], timeout=30.0,
        )  # fmt: skip
        next(stream)
        worker.signal(signal.SIGTERM)
        assert [count.response_of(one).number for one in stream] == list(range(2, 9))
    assert worker.process.wait(timeout=START_S) == 0


def test_a_port_that_is_taken_is_said(texts: Any, tmp_path: Any) -> None:
    """With the name of the setting."""
    port = texts.wait_for_line("listening")["grpc_port"]
    environ = {**texts.environ, "GRPC_PORT": str(port), "DATA_DIR": str(tmp_path / "other")}
    second = subprocess.run([PHALANX, "serve"], env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 1
    assert "GRPC_PORT" in second.stderr
    assert "Traceback" not in second.stderr


def test_a_call_has_its_line_in_the_log(texts: Any) -> None:
    """One, as over HTTP."""
    key = texts.key(email="line@example.org")
    ask(texts.wait_for_line("listening")["grpc_port"], "example.echo", key, word="hi")
    deadline = time.monotonic() + START_S
    while not (found := [line for line in texts.lines() if line.get("organisation") == "line@example.org"]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert len(found) == 1
    expected = {
        "event": "request",
        "operation": "example.echo",
        "status": "OK",
        "code": "ok",
        "route": "Example/Echo",
        "dialect": "grpc",
    }
    assert {name: found[0][name] for name in expected} == expected


def test_several_workers_share_the_port(
    text_models: Path, tmp_path: Path, postgres: PostgresServer, redis_server: RedisServer
) -> None:
    """Each has some of the calls."""
    environ = {
        "DATABASE_URL": postgres.create_database(), "JWT_SECRET": "for-tests-only-" * 4, "GRPC_PORT": "0",
        "REDIS_URL": redis_server.url.removesuffix("/0") + f"/{REDIS_NUMBER}",
    }  # fmt: skip
    worker = WorkerProcess(tmp_path, text_models, environ, command=(PHALANX, "serve", "--workers", "2"))
    try:
        worker.wait_ready()
        port = worker.wait_for_line("listening")["grpc_port"]
        deadline = time.monotonic() + START_S
        while len([line for line in worker.lines() if line.get("event") == "accepting"]) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        key = worker.key()
        for _ in range(60):
            assert ask(port, "example.echo", key, word="hi").words == ["hi"]
        while {line["worker"] for line in worker.lines() if line.get("dialect") == "grpc"} != {"1/2", "2/2"}:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        assert worker.stop() == 0


def test_the_example_calls_by_reflection_alone(texts: Any) -> None:
    """JSON in and out, of hand-written and derived messages, one request and many; errors in one line."""
    address = f"127.0.0.1:{texts.wait_for_line('listening')['grpc_port']}"
    key = texts.key()

    def run(*words: str, lines: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(EXAMPLE), address, *words]
        environ = {**texts.environ, "PHALANX_KEY": key}
        return subprocess.run(
            command, env=environ, input=lines, capture_output=True, text=True, timeout=60, check=False
        )

    embedded = json.loads(run("phalanx.v1.Text/Embed", '{"texts": [{"text": "Hello world"}]}').stdout)
    assert len(embedded["embeddings"][0]["values"]) == 384
    added = run("phalanx.plugins.example.Example/Add", lines='{"number": 1}\n{"number": 2}\n')
    assert [json.loads(line)["total"] for line in added.stdout.splitlines()] == ["1", "3"]
    refused = run("phalanx.v1.Text/Embed", '{"texts": [{"text": " "}]}')
    assert (refused.returncode, refused.stderr.startswith("INVALID_ARGUMENT: ")) == (1, True)
    assert run("phalanx.v1.Text/Nothing", "{}").stderr.startswith("the worker does not have")
