"""Calls over gRPC: what is said along with an answer, deadlines, streams, bad input, health, reflection, TLS, the end."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from edges.rpc import RpcClient
from phalanx.app.grpc import grpc_server
from phalanx.edges.grpc.exchange import address_of
from phalanx.edges.grpc.server import GrpcServer, GrpcTls
from phalanx.edges.listeners import CannotListen
from phalanx.operations import table

ROWS = table()
EMBED, COUNT, ADD, ECHO = (ROWS[name] for name in ("text.embed", "example.count", "example.add", "example.echo"))
HELLO = {"texts": ["Hello world"]}
OK = grpc.StatusCode.OK


@pytest.fixture(scope="module")
def rpc(worker: Any) -> Iterator[RpcClient]:
    client = RpcClient(worker)
    yield client
    client.close()


def until(worker: Any, holds: Callable[[], bool], within_s: float = 10.0) -> None:
    """Let the worker's loop turn until something holds."""

    async def wait() -> None:
        async with asyncio.timeout(within_s):
            while not holds():  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    worker.run(wait())


def streams(worker: Any) -> int:
    return int(worker.app.entrance.gate.streams.taken)


# What comes along


def test_an_answer_says_what_http_s_headers_say(rpc: RpcClient) -> None:
    """The caller's own id, times, the model."""
    outcome = rpc.call(EMBED, HELLO, headers={"x-request-id": "abc-123"})
    assert outcome.trailing["x-request-id"] == "abc-123"
    parts = [part.split(";")[0] for part in outcome.trailing["server-timing"].split(", ")]
    assert parts == ["queue", "engine", "total"]
    assert outcome.trailing["x-model"] == "all-MiniLM-L6-v2"
    assert outcome.trailing["x-model-version"]


@pytest.mark.parametrize("letter", ["m", "😀", "\x01"])
def test_what_is_wrong_fits_into_trailing_metadata(rpc: RpcClient, letter: str) -> None:
    """Of a name without end a part is repeated, or clients would see nothing but metadata that are too large."""
    outcome = rpc.call(EMBED, {**HELLO, "model": letter * 50_000})
    assert (outcome.status, outcome.code) == (grpc.StatusCode.NOT_FOUND, "model_not_found")
    assert outcome.detail.startswith("this worker does not serve the model")
    assert len(outcome.detail.encode()) <= 1024


@pytest.mark.parametrize("unsafe", ["a b", "x" * 129, "eyJhbGciOi"])
def test_an_unsafe_request_id_is_replaced(rpc: RpcClient, unsafe: str) -> None:
    """What could break a log line, or is a credential, does not get into it."""
    assert len(rpc.call(ECHO, {"word": "a"}, headers={"x-request-id": unsafe}).trailing["x-request-id"]) == 32


def test_errors_carry_the_request_id(rpc: RpcClient) -> None:
    """In the metadata and in the details."""
    outcome = rpc.call(EMBED, {"texts": []}, headers={"x-request-id": "abc-124"}, key="wrong")
    assert outcome.code == "unauthenticated"
    assert outcome.trailing["x-request-id"] == "abc-124"
    assert outcome.info["ErrorInfo"].domain == "phalanx"
    assert outcome.info["ErrorInfo"].metadata["request_id"] == "abc-124"


def test_who_is_over_a_limit_is_told_when_to_come_back(start_worker: Callable[..., Any]) -> None:
    """RESOURCE_EXHAUSTED with RetryInfo, and the windows of the limit as over HTTP."""
    worker = start_worker(RATE_LIMIT_BURST="2", RATE_LIMIT_REQUESTS_PER_MINUTE="1")
    rpc = RpcClient(worker)
    key = worker.key(tier="free", email="limited@example.org")
    outcomes = [rpc.call(ECHO, {"word": "a"}, key=key) for _ in range(3)]
    rpc.close()
    assert [outcome.code for outcome in outcomes] == ["ok", "ok", "rate_limited"]
    refused = outcomes[-1]
    assert refused.status is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert 0 < refused.info["RetryInfo"].retry_delay.ToTimedelta().total_seconds() <= 60
    assert int(refused.trailing["retry-after"]) >= 1
    assert '"requests";r=0' in refused.trailing["ratelimit"]
    assert outcomes[0].trailing["x-ratelimit-limit"]


def test_a_full_worker_is_unavailable(worker: Any, rpc: RpcClient) -> None:
    """Not the caller's limit: UNAVAILABLE, and when to come back."""
    permits = worker.app.entrance.gate.calls
    permits.taken += permits.limit
    try:
        outcome = rpc.call(EMBED, HELLO)
    finally:
        permits.taken -= permits.limit
    assert (outcome.status, outcome.code) == (grpc.StatusCode.UNAVAILABLE, "overloaded")
    assert "RetryInfo" in outcome.info


def test_an_idempotency_key_runs_a_call_once(worker: Any, rpc: RpcClient) -> None:
    """The second time the first answer comes; with another request it is a mismatch."""
    key = worker.key(email="once@example.org")
    headers = {"idempotency-key": "k1"}
    first, again = (rpc.call(EMBED, HELLO, key=key, headers=headers) for _ in range(2))
    assert again.trailing["idempotency-replayed"] == "true"
    assert (again.responses[0].embeddings[0] == first.responses[0].embeddings[0]).all()
    assert worker.totals("once@example.org").requests == 1
    assert rpc.call(EMBED, {"texts": ["other"]}, key=key, headers=headers).code == "idempotency_mismatch"
    assert rpc.call(EMBED, HELLO, key=key, headers={"idempotency-key": "x" * 256}).code == "invalid_request"


def test_the_peer_is_the_caller_s_address() -> None:
    """As gRPC writes it; a header claims nothing."""
    assert address_of("ipv4:192.0.2.7:1234") == "192.0.2.7"
    assert address_of("ipv6:%5B2001:db8::1%5D:1234") == "2001:db8::1"
    assert address_of("unix:/run/x") == ""


# Who may


def test_a_key_comes_in_either_header(worker: Any, rpc: RpcClient) -> None:
    """As over HTTP; two at once are one too many."""
    key = worker.key()
    assert rpc.call(ECHO, {"word": "a"}, key=None, headers={"x-api-key": key}).code == "ok"
    assert rpc.call(ECHO, {"word": "a"}, key=None, headers={"authorization": f"Basic {key}"}).code == "unauthenticated"
    method = rpc.methods["example.echo"]

    async def twice() -> Any:
        metadata = [("authorization", f"Bearer {key}"), ("authorization", f"Bearer {key}")]
        message = method.request_of(ECHO.request(word="a"))
        call = rpc.channel.unary_unary(method.path)(message, metadata=metadata)
        return await call.code(), await call.details()

    code, detail = worker.run(twice())
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "authorization" in detail


@pytest.mark.parametrize("token", ["", "fe_wrong", "eyJhbGciOiJIUzI1NiJ9.e30.x", "x" * 9000])
def test_a_bad_token_is_refused(rpc: RpcClient, token: str) -> None:
    """Empty, mistyped, forged, endless."""
    outcome = rpc.call(ECHO, {"word": "a"}, key=token)
    assert (outcome.status, outcome.code) == (grpc.StatusCode.UNAUTHENTICATED, "unauthenticated")


def test_a_session_s_token_will_do(worker: Any, rpc: RpcClient) -> None:
    """From signing up to who one is, over gRPC alone."""
    account = {"email": "rpc@example.org", "password": "three blind mice"}
    assert rpc.call(ROWS["auth.signup"], account, key=None).code == "ok"
    tokens = rpc.call(ROWS["auth.login"], account, key=None).responses[0]
    assert rpc.call(ROWS["auth.me"], {}, key=tokens.access_token).responses[0].email == "rpc@example.org"


def test_nothing_is_served_in_clear_where_tls_is_demanded(start_worker: Callable[..., Any]) -> None:
    """FORCE_HTTPS without a certificate: refused, with advice, whatever was sent."""
    worker = start_worker(FORCE_HTTPS="true")
    rpc = RpcClient(worker)
    outcome = rpc.call(ECHO, {"word": "a"})
    rpc.close()
    assert (outcome.status, outcome.code) == (grpc.StatusCode.PERMISSION_DENIED, "tls_required")


def test_a_service_that_is_not_here_is_said(worker: Any) -> None:
    """UNIMPLEMENTED, with the code and sentence of HTTP's 404, unary or stream; reflection and health leave it out."""
    rows = worker.app.operations
    elsewhere = {name: row for name, row in rows.items() if row.service == "text"}
    here = {name: row for name, row in rows.items() if name not in elsewhere}
    app = dataclasses.replace(worker.app, operations=here, elsewhere=elsewhere)
    rpc = RpcClient(SimpleNamespace(app=app, run=worker.run, key=worker.key))
    missing = rpc.call(EMBED, HELLO)
    stranger = rpc.call(EMBED, HELLO, key=None)
    stream = rpc.call(ROWS["text.embed_stream"], HELLO)
    there = rpc.call(ROWS["vectors.similarity"], {"a": [1.0], "b": [1.0]})
    rpc.close()
    for refused in (missing, stranger, stream):
        assert (refused.status, refused.code) == (grpc.StatusCode.UNIMPLEMENTED, "not_found")
        assert "'text'" in refused.detail
        details = Status.FromString(refused.trailing["grpc-status-details-bin"])
        assert details.code == grpc.StatusCode.UNIMPLEMENTED.value[0]
    assert there.code == "ok"
    assert "phalanx.v1.Vectors" in rpc.edge.services
    assert "phalanx.v1.Text" not in rpc.edge.services


# Deadlines and streams


def test_the_caller_s_deadline_ends_the_work(worker: Any, rpc: RpcClient) -> None:
    """A stream that would take a minute is over soon after its caller's quarter of a second."""
    key = worker.key(email="hasty@example.org")
    outcome = rpc.call(COUNT, {"to": 60, "pause_ms": 1000}, key=key, within_s=0.25)
    assert outcome.status is grpc.StatusCode.DEADLINE_EXCEEDED
    until(worker, lambda: streams(worker) == 0)
    assert worker.totals("hasty@example.org").errors == 1


def test_the_earlier_deadline_counts(worker: Any, rpc: RpcClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller's or ours; a ticket has the one that is sooner. Ours is longer for a call of many."""
    found = []
    gate = worker.app.entrance.gate
    reserve = gate.reserve

    def note(*given: Any, **more: Any) -> Any:
        found.append(reserve(*given, **more))
        return found[-1]

    monkeypatch.setattr(gate, "reserve", note)
    for within_s in (1.5, 60.0, None):
        rpc.call(EMBED, HELLO, within_s=within_s)
    many = {"texts": [f"one of many, {number}" for number in range(300)]}
    for within_s in (7.5, None):
        rpc.call(EMBED, many, within_s=within_s)
    left = [ticket.deadline - ticket.started for ticket in found if ticket.operation == "text.embed"]
    # On its way a deadline is rounded up.
    assert 0 < left[0] < 2.0
    assert left[1:3] == pytest.approx([5.0, 5.0])
    assert 0 < left[3] < 8.0
    assert left[4] == pytest.approx(10.0)


def test_a_server_stream_is_whole_and_in_order(rpc: RpcClient) -> None:
    """And may be empty."""
    assert [one.number for one in rpc.call(COUNT, {"to": 300}).responses] == list(range(1, 301))
    assert rpc.call(COUNT, {"to": 0}).responses == []


def test_an_error_in_the_middle_ends_a_stream(worker: Any, rpc: RpcClient) -> None:
    """What was sent stays, and is billed."""
    outcome = rpc.call(COUNT, {"to": 9, "fail_at": 4}, key=worker.key(email="rpc-streams@example.org"))
    assert ([one.number for one in outcome.responses], outcome.code) == ([1, 2, 3], "invalid_request")
    totals = worker.totals("rpc-streams@example.org")
    assert (totals.requests, totals.units, totals.errors) == (1, 3, 1)


def test_a_client_stream_is_answered_message_by_message(worker: Any, rpc: RpcClient) -> None:
    """Each answer comes before the next message is sent."""
    method = rpc.methods["example.add"]

    async def talk() -> list[int]:
        call = rpc.channel.stream_stream(method.path)(metadata=rpc.metadata())
        totals = []
        for number in (1, 2, 3):
            await call.write(method.request_of(ADD.request(number=number)))
            totals.append(method.response_of(await call.read()).total)
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        return totals

    assert worker.run(talk()) == [1, 3, 6]


def test_a_bad_message_ends_a_client_stream(rpc: RpcClient) -> None:
    """The answers before it arrive. It is the last one sent: of 100 clients of grpc.aio that still write, one is told INTERNAL."""
    good = rpc.methods["example.add"].request_of(ADD.request(number=1))
    outcome = rpc.call(ADD, raw=[good, b"\xff\xff"])
    assert ([one.total for one in outcome.responses], outcome.code) == ([1], "invalid_request")


def test_a_client_that_leaves_ends_its_stream(worker: Any, rpc: RpcClient) -> None:
    """The ticket is closed as cancelled and the permit given back."""
    method = rpc.methods["example.count"]
    key = worker.key(email="rpc-leaver@example.org")

    async def leave() -> None:
        call = rpc.channel.stream_stream(method.path)(metadata=rpc.metadata(key))
        await call.write(method.request_of(COUNT.request(to=1_000_000)))
        await call.read()
        call.cancel()

    worker.run(leave())
    until(worker, lambda: streams(worker) == 0)
    totals = worker.totals("rpc-leaver@example.org")
    assert (totals.requests, totals.errors) == (1, 1)


def test_a_client_that_stops_reading_is_dropped(worker: Any) -> None:
    """It holds nothing up for longer than SERVER_WRITE_TIMEOUT_SECS, and what it asks for is not computed meanwhile."""
    rpc = RpcClient(worker, _write_timeout_s=0.5)
    method = rpc.methods["text.embed_stream"]
    key = worker.key(email="rpc-stalled@example.org")
    message = method.request_of(EMBED.request(texts=["Hello world"] * 256))

    async def ask_on(call: Any) -> None:
        while True:
            await call.write(message)

    async def stall() -> Any:
        call = rpc.channel.stream_stream(method.path)(metadata=rpc.metadata(key))
        await call.write(message)
        return call, asyncio.create_task(ask_on(call))

    call, asking = worker.run(stall())
    until(worker, lambda: streams(worker) == 1)
    until(worker, lambda: streams(worker) == 0, within_s=60.0)
    totals = worker.totals("rpc-stalled@example.org")
    assert (totals.requests, totals.errors) == (1, 1)

    async def end() -> None:
        call.cancel()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

    worker.run(end())
    rpc.close()


def test_a_client_that_sends_nothing_is_told(worker: Any) -> None:
    """A message is waited for SERVER_READ_TIMEOUT_SECS."""
    rpc = RpcClient(worker, _read_timeout_s=0.2)
    for row in (ECHO, ADD):
        method = rpc.methods[row.name]

        async def wait(path: str = method.path) -> Any:
            call = rpc.channel.stream_stream(path)(metadata=rpc.metadata())
            return await call.code(), dict(await call.trailing_metadata())

        code, trailing = worker.run(wait())
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "grpc-status-details-bin" in trailing
    rpc.close()
    assert streams(worker) == 0


def test_bulk_embedding_is_in_order(rpc: RpcClient) -> None:
    """Many messages of several texts; each answer is that of its own message."""
    requests = [{"texts": [f"text {number} {index}" for index in range(3)]} for number in range(40)]
    streamed = rpc.call(ROWS["text.embed_stream"], *requests, within_s=60.0)
    assert (streamed.code, len(streamed.responses)) == ("ok", 40)
    alone = rpc.call(EMBED, requests[17]).responses[0]
    assert all(
        (one == other).all() for one, other in zip(streamed.responses[17].embeddings, alone.embeddings, strict=True)
    )


# Messages


def test_a_message_far_above_every_limit_is_refused_by_the_transport(rpc: RpcClient) -> None:
    """Before it is in memory; so is one that is small only while compressed."""
    outcome = rpc.call(EMBED, raw=[bytes(18 * 2**20)])
    assert outcome.status is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in outcome.detail
    method = rpc.methods["text.embed"]

    async def inflate() -> Any:
        call = rpc.channel.unary_unary(method.path)(
            bytes(64 * 2**20), metadata=rpc.metadata(), compression=grpc.Compression.Gzip
        )
        return await call.code()

    assert rpc.worker.run(inflate()) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert rpc.call(ECHO, {"word": "a"}).code == "ok"


@pytest.mark.parametrize("path", ["/phalanx.v1.Text/Nothing", "/no.such.Service/Embed", "/x"])
def test_an_unknown_method_is_unimplemented(rpc: RpcClient, path: str) -> None:
    """Also for those without a credential."""
    for key in ("default", None):
        assert rpc.call(EMBED, HELLO, path=path, key=key).status is grpc.StatusCode.UNIMPLEMENTED


def test_metadata_beyond_the_limit_ends_the_call(rpc: RpcClient) -> None:
    """And nothing but the call."""
    outcome = rpc.call(ECHO, {"word": "a"}, headers={"x-much": "x" * 40_000})
    assert outcome.status is not OK
    assert rpc.call(ECHO, {"word": "a"}).code == "ok"


def test_who_pings_without_end_is_sent_away(rpc: RpcClient) -> None:
    """GOAWAY, ENHANCE_YOUR_CALM (RFC 9113 §7), and the connection is closed."""

    async def ping() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", rpc.server.port)
        settings = b"\0\0\0\x04\0\0\0\0\0"
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings)
        writer.write(b"\0\0\x08\x06\0\0\0\0\0--------" * 20)
        async with asyncio.timeout(10.0):
            said = await reader.read()
        writer.close()
        return said

    said = rpc.worker.run(ping())
    assert b"too_many_pings" in said
    assert b"\0\0\0\x0btoo_many_pings" in said


# Health, reflection, TLS, the end


def test_health_is_said_without_a_credential(rpc: RpcClient) -> None:
    """Of the worker and of each service; what is not known is NOT_FOUND."""
    stub = health_pb2_grpc.HealthStub(rpc.channel)
    serving = health_pb2.HealthCheckResponse.SERVING

    async def check() -> Any:
        rpc.serving = {"": True, "phalanx.v1.Text": True, "phalanx.v1.Faces": False}
        await rpc.server._look()
        names = ("", "phalanx.v1.Text", "phalanx.v1.Faces")
        found = [(await stub.Check(health_pb2.HealthCheckRequest(service=name))).status == serving for name in names]
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await stub.Check(health_pb2.HealthCheckRequest(service="no.such.Service"))
        return found, unknown.value.code()

    assert rpc.worker.run(check()) == ([True, True, False], grpc.StatusCode.NOT_FOUND)


def test_a_worker_without_a_model_says_so(start_worker: Callable[..., Any], tmp_path: Path) -> None:
    """Text and the worker are not served; keys are."""
    worker = start_worker(MODEL_DIR=str(tmp_path), GRPC_PORT="0")
    found = worker.run(grpc_server(worker.app)._healthy())
    expected = {"": False, "phalanx.v1.Text": False, "phalanx.v1.Faces": False, "phalanx.v1.Keys": True}
    assert {name: found[name] for name in expected} == expected
    worker.app.health.begin_draining()
    assert not any(worker.run(grpc_server(worker.app)._healthy()).values())


@pytest.mark.parametrize("version", ["v1alpha", "v1"])
def test_reflection_tells_every_service(rpc: RpcClient, version: str) -> None:
    """Hand-written and derived ones, under both names of the service; a client finds the messages of a method."""
    request = reflection_pb2.ServerReflectionRequest

    async def ask(*requests: Any) -> list[Any]:
        call = rpc.channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=request.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )

        async def send() -> AsyncIterator[Any]:
            for one in requests:
                yield one

        return [one async for one in call(send())]

    listed, text, example, nothing = rpc.worker.run(ask(
        request(list_services=""), request(file_containing_symbol="phalanx.v1.Text"),
        request(file_containing_symbol="phalanx.plugins.example.Example"), request(file_containing_symbol="no.Such"),
    ))  # fmt: skip
    names = {service.name for service in listed.list_services_response.service}
    assert {method.service for method in rpc.methods.values()} <= names
    assert f"grpc.reflection.{version}.ServerReflection" in names
    for answer, name in ((text, "EmbedRequest"), (example, "EchoRequest")):
        files = [FileDescriptorProto.FromString(raw) for raw in answer.file_descriptor_response.file_descriptor_proto]
        assert name in {message.name for file in files for message in file.message_type}
    assert nothing.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


def certificate(folder: Path, name: str, issuer: tuple[Any, Any] | None = None) -> tuple[Path, Path, tuple[Any, Any]]:
    """Write a certificate for localhost and its key; without an issuer it signs itself, and may sign others."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    by, signing_key = (issuer[0].subject, issuer[1]) if issuer else (subject, key)
    signed = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(by).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .sign(signing_key, hashes.SHA256())
    )  # fmt: skip
    paths = folder / f"{name}.pem", folder / f"{name}.key"
    paths[0].write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return *paths, (signed, key)


def test_tls_is_spoken_and_mutual_tls_demanded(worker: Any, tmp_path: Path) -> None:
    """With a certificate of the right authority a call passes; without one, or in clear, there is no connection."""
    ca, _, authority = certificate(tmp_path, "authority")
    cert, key, _ = certificate(tmp_path, "server", authority)
    mine, my_key, _ = certificate(tmp_path, "client", authority)
    roots = ca.read_bytes()
    plain = grpc.ssl_channel_credentials(roots)
    mutual = grpc.ssl_channel_credentials(roots, my_key.read_bytes(), mine.read_bytes())
    for client_ca, credentials, expected in (
        (None, plain, "ok"), (ca, mutual, "ok"), (ca, plain, "UNAVAILABLE"), (None, None, "UNAVAILABLE"),
    ):  # fmt: skip
        rpc = RpcClient(worker, tls=GrpcTls(cert, key, client_ca), channel_tls=credentials)
        outcome = rpc.call(ECHO, {"word": "a"}, within_s=5.0)
        rpc.close()
        assert expected in (outcome.code, outcome.status.name), outcome.detail


def test_a_port_or_a_file_that_cannot_be_used_is_said(rpc: RpcClient, tmp_path: Path) -> None:
    """With the setting to change."""

    async def healthy() -> dict[str, bool]:
        return {}

    def server(port: int, tls: GrpcTls | None = None) -> GrpcServer:
        return GrpcServer(rpc.edge, host="127.0.0.1", port=port, log=rpc.worker.app.log, healthy=healthy, tls=tls)

    async def bind(one: GrpcServer) -> None:
        one.bind()

    with pytest.raises(CannotListen, match="GRPC_PORT"):
        rpc.worker.run(bind(server(rpc.server.port)))
    with pytest.raises(CannotListen, match="TLS_CERT_FILE"):
        rpc.worker.run(bind(server(0, GrpcTls(tmp_path / "none", tmp_path / "none"))))


def test_draining_lets_calls_finish_and_takes_no_more(worker: Any) -> None:
    """A stream under way is answered to its end; a new call is refused; one that will not end is cancelled."""
    rpc = RpcClient(worker)
    method = rpc.methods["example.count"]

    async def drain() -> Any:
        short, endless = (
            rpc.channel.stream_stream(method.path)(metadata=rpc.metadata()) for _ in range(2)
        )  # fmt: skip
        await short.write(method.request_of(COUNT.request(to=5, pause_ms=100)))
        await endless.write(method.request_of(COUNT.request(to=1000, pause_ms=100)))
        await asyncio.gather(short.read(), endless.read())
        draining = asyncio.create_task(rpc.server.drain())
        await asyncio.sleep(0.05)
        rest = []
        while (one := await short.read()) is not grpc.aio.EOF:
            rest.append(method.response_of(one).number)
        other = rpc.open_channel()
        refused = other.unary_unary(rpc.methods["example.echo"].path)(b"", metadata=rpc.metadata(), timeout=2.0)
        refusal = await refused.code()
        await draining
        # The status comes behind what was sent before.
        with contextlib.suppress(grpc.aio.AioRpcError):
            while await endless.read() is not grpc.aio.EOF:
                pass
        ended = await endless.code()
        await other.close()
        return rest, refusal, ended

    worker.key()
    rest, refusal, ended = worker.run(drain())
    assert rest == [2, 3, 4, 5]
    assert refusal is grpc.StatusCode.UNAVAILABLE
    assert ended is not OK
    assert streams(worker) == 0
    worker.run(rpc.channel.close())


def test_a_drain_can_be_hurried(worker: Any) -> None:
    """What would have had a minute to finish is cancelled, and billed as such."""
    rpc = RpcClient(worker)
    rpc.server._drain_timeout_s = 60.0
    method = rpc.methods["example.count"]
    key = worker.key(email="rpc-hurried@example.org")

    async def hurry() -> float:
        endless = rpc.channel.stream_stream(method.path)(metadata=rpc.metadata(key))
        await endless.write(method.request_of(COUNT.request(to=1000, pause_ms=100)))
        await endless.read()
        began = time.monotonic()
        draining = asyncio.create_task(rpc.server.drain())
        await asyncio.sleep(0.1)
        rpc.server.hurry()
        await draining
        return time.monotonic() - began

    assert worker.run(hurry()) < 30.0
    until(worker, lambda: streams(worker) == 0)
    totals = worker.totals("rpc-hurried@example.org")
    assert (totals.requests, totals.errors) == (1, 1)
    worker.run(rpc.channel.close())
