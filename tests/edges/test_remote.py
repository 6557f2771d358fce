"""Rows that another worker runs: the answers, codes and usage of a worker that has the model itself."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest

from edges.rpc import RpcClient
from edges.test_grpc_calls import certificate
from phalanx.edges.grpc.server import GrpcTls
from phalanx.errors import Overloaded
from phalanx.operations import Kind, Operation, table
from phalanx.settings import SettingsError, load
from pictures import astronaut, saved

ROWS = table()
REMOTE = [
    row for row in ROWS.values() if row.noun in ("text", "faces", "images", "vectors") and row.service != "collections"
]
WITH_EXAMPLE = [row for row in REMOTE if row.examples]
EMBED = ROWS["text.embed"]
NOUNS = ("TEXT", "FACES", "IMAGES", "VECTORS")


class Pair(NamedTuple):
    """A worker without models, and the one that works for it."""

    gateway: Any
    behind: Any
    rpc: RpcClient

    @property
    def url(self) -> str:
        return f"grpc://127.0.0.1:{self.rpc.server.port}"


@pytest.fixture(scope="module")
def pair(worker: Any, start_worker: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """All four nouns of a worker with an empty model store are run by the session's worker."""
    rpc = RpcClient(worker)
    url = f"grpc://127.0.0.1:{rpc.server.port}"
    gateway = start_worker(
        MODEL_DIR=str(tmp_path_factory.mktemp("no-models")), SERVICE_KEY=worker.key(email="gateway@example.org"),
        **{f"{noun}_URL": url for noun in NOUNS},
    )  # fmt: skip
    yield Pair(gateway, worker, rpc)
    rpc.close()


def gateway_to(start_worker: Callable[..., Any], folder: Path, url: str, key: str, **more: str) -> Any:
    return start_worker(MODEL_DIR=str(folder), TEXT_URL=url, SERVICE_KEY=key, **more)


def ask(worker: Any, row: Operation, example: dict[str, Any], key: str) -> tuple[int, list[Any], dict[str, str]]:
    if row.kind is Kind.CLIENT_STREAM:
        lines = b"".join(json.dumps(one).encode() + b"\n" for one in row.examples)
        answer = worker.request(
            row.method, row.path, body=lines, headers={"content-type": "application/x-ndjson"}, key=key
        )
    else:
        answer = worker.post(row.path, example, key=key)
    return answer.status, [json.loads(line) for line in answer.body.splitlines()], answer.headers


def timeless(value: Any) -> Any:
    """Return JSON without what is measured or is a matter of the call alone."""
    if isinstance(value, dict):
        return {n: timeless(one) for n, one in value.items() if n not in ("request_id", "instance") and "_ms" not in n}
    return [timeless(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("row", WITH_EXAMPLE, ids=[row.name for row in WITH_EXAMPLE])
def test_answers_and_usage_are_those_of_a_worker_with_the_model(pair: Pair, row: Operation) -> None:
    """Each example: the same JSON and model, the same event here; the other worker has one of the service key's."""
    for number, example in enumerate(row.examples[: 1 if row.kind is Kind.CLIENT_STREAM else None]):
        said, used = {}, {}
        for name, worker in (("here", pair.behind), ("there", pair.gateway)):
            organisation = f"remote-{name}-{row.name}{number}@example.org"
            before = pair.behind.totals("gateway@example.org")
            status, body, headers = ask(worker, row, example, worker.key(email=organisation))
            said[name] = (status, timeless(body), *(headers.get(n) for n in ("x-model",)))
            totals = worker.totals(organisation)
            used[name] = [getattr(totals, field) for field in totals.__struct_fields__]
            after = pair.behind.totals("gateway@example.org")
            assert after.requests - before.requests == (name == "there")
        assert said["there"] == said["here"]
        assert used["there"] == used["here"]
        assert used["there"][0] == 1


def test_a_photograph_goes_through_every_row_about_faces(pair: Pair) -> None:
    """The largest answers, and `compare`, which has no example."""
    image = base64.b64encode(saved(astronaut(), "PNG")).decode()
    for path, body in (
        ("/v1/faces/detect", {"image": image}), ("/v1/faces/embed", {"image": image}),
        ("/v1/faces/compare", {"images": [image, image]}),
        ("/v1/images/process", {"image": image, "operations": [{"align": {"template": "arcface"}}]}),
    ):  # fmt: skip
        here, there = (one.post(path, body) for one in (pair.behind, pair.gateway))
        drop = ("processing", "cached")
        assert here.status == there.status == 200, there.body
        assert {n: v for n, v in timeless(there.json).items() if n not in drop} == {
            n: v for n, v in timeless(here.json).items() if n not in drop
        }


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/text/embed", {"texts": []}),
        ("/v1/text/embed", {"texts": [" "]}),
        ("/v1/text/embed", {"texts": ["written in no other test", " "]}),
        ("/v1/text/embed", {"texts": ["a"], "model": "no"}),
        ("/v1/text/embed", {"texts": ["a"], "dimensions": 9999}),
        ("/v1/text/embed", {"texts": ["a"], "truncate": "middle"}),
        ("/v1/text/embed", {"texts": ["word " * 600], "truncate": "none"}),
        ("/v1/vectors/similarity", {"a": [1.0], "b": [1.0, 2.0]}),
        ("/v1/images/process", {"image": "bm8="}),
        ("/v1/faces/embed", {"image": "bm8="}),
        ("/v1/embed", {"text": ""}),
        ("/v1/embeddings", {"input": "", "model": "all-MiniLM-L6-v2"}),
    ],
)
def test_errors_are_those_of_a_worker_with_the_model(pair: Pair, path: str, body: Any) -> None:
    """Status, code, sentence and field."""
    here, there = (one.post(path, body) for one in (pair.behind, pair.gateway))
    assert (there.status, timeless(there.json)) == (here.status, timeless(here.json))


def test_dialects_and_other_edges_profit(pair: Pair) -> None:
    """OpenAI's and TEI's routes, and gRPC of the worker without models."""
    for path, body in (
        ("/v1/embeddings", {"input": ["one", "two"], "model": "all-MiniLM-L6-v2", "encoding_format": "base64"}),
        ("/embed", {"inputs": ["one"]}), ("/v1/embed", {"text": "one"}),
    ):  # fmt: skip
        here, there = (one.post(path, body) for one in (pair.behind, pair.gateway))
        assert there.status == here.status == 200, there.body
        assert type(there.json) is type(here.json)
    front = RpcClient(pair.gateway)
    try:
        found = [client.call(EMBED, {"texts": ["over two workers"]}) for client in (front, pair.rpc)]
        assert [one.status for one in found] == [grpc.StatusCode.OK] * 2
        assert found[0].responses[0].embeddings[0].tolist() == found[1].responses[0].embeddings[0].tolist()
        assert found[0].trailing["x-usage"] == found[1].trailing["x-usage"] == "units=5, tokens=5, cached=0, items=1"
    finally:
        front.close()


def test_it_is_ready_and_healthy_without_a_model(pair: Pair) -> None:
    """The workers behind are dependencies, one a noun."""
    assert pair.gateway.get("/readyz", key=None).status == 200
    pair.rpc.serving.update(dict.fromkeys(pair.rpc.edge.services, True))
    deadline = time.monotonic() + 20.0
    while (health := pair.gateway.get("/health", key=None).json)["status"] != "healthy":
        assert time.monotonic() < deadline, health
        pair.gateway.run(asyncio.sleep(0.1))
    found = {name: state["healthy"] for name, state in health["dependencies"].items() if name.startswith("upstream")}
    assert found == {f"upstream_{noun.lower()}": True for noun in NOUNS}


def test_callers_of_one_gateway_do_not_share_what_is_cached(pair: Pair) -> None:
    """Another organisation's text comes from no cache, though both call with one service key."""
    body = {"texts": ["nobody said this before"]}
    found = [
        pair.gateway.post("/v1/text/embed", body, key=pair.gateway.key(email=f"{who}@example.org")).json["items"][0][
            "cached"
        ]
        for who in ("first", "second", "first")
    ]
    assert found == [False, False, True]


def test_the_request_id_and_the_organisation_are_in_the_other_log(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that one call is found in both logs."""
    lines: list[dict[str, Any]] = []
    monkeypatch.setattr(pair.rpc.edge._requests, "write", lines.append)
    key = pair.gateway.key(email="jürgen@example.org")
    pair.gateway.post("/v1/text/embed", {"texts": ["hi"]}, headers={"x-request-id": "seen-twice"}, key=key)
    assert [(one["request_id"], one["on_behalf_of"], one["organisation"]) for one in lines] == [
        ("seen-twice", "jürgen@example.org", "gateway@example.org")
    ]


def test_a_stream_that_ends_in_an_error_has_its_answers_first(pair: Pair) -> None:
    """A bad line is told where it stands, as locally; what came before is answered and billed."""
    lines = b'{"texts": ["one two"]}\n{"texts": 7}\n'
    found, used = [], []
    for name, worker in (("here", pair.behind), ("there", pair.gateway)):
        organisation = f"half-stream-{name}@example.org"
        answer = worker.request(
            "POST", "/v1/text/embed-stream", body=lines, headers={"content-type": "application/x-ndjson"},
            key=worker.key(email=organisation),
        )  # fmt: skip
        found.append([sorted(json.loads(line)) for line in answer.body.splitlines()])
        totals = worker.totals(organisation)
        used.append([getattr(totals, field) for field in totals.__struct_fields__])
    assert found[1] == found[0]
    assert used[1] == used[0]


def test_a_stream_that_is_left_is_billed_for_what_it_gave(pair: Pair) -> None:
    """No trailing metadata come then: the answers themselves say what was used."""
    lines = [json.dumps({"texts": [f"text {n}"]}).encode() + b"\n" for n in range(400)]
    key = pair.gateway.key(email="leaver@example.org")
    answer = pair.gateway.request(
        "POST",
        "/v1/text/embed-stream",
        body=lines,
        headers={"content-type": "application/x-ndjson"},
        key=key,
        leave_after=3,
    )
    totals = pair.gateway.totals("leaver@example.org")
    given = sum(json.loads(line)["usage"]["tokens"] for line in b"".join(answer.chunks).splitlines())
    assert totals.requests == 1
    assert given <= totals.tokens < 400 * 4


def test_a_wrong_key_is_not_the_callers_fault(pair: Pair, start_worker: Callable[..., Any], tmp_path: Path) -> None:
    """502 that names SERVICE_KEY, not the caller's 401; the same without a key, and without the scope."""
    for key in ("fe_wrong", "", pair.behind.key(scopes=("usage",), email="narrow@example.org")):
        gateway = gateway_to(start_worker, tmp_path, pair.url, key)
        answer = gateway.post("/v1/text/embed", {"texts": ["a"]})
        assert (answer.status, answer.json["code"]) == (502, "upstream_failed")
        assert "SERVICE_KEY" in answer.json["detail"]
        assert "TEXT_URL" in answer.json["detail"]
        assert "127.0.0.1" not in answer.json["detail"]


def test_an_address_where_nobody_answers_is_said(start_worker: Callable[..., Any], tmp_path: Path) -> None:
    """503 unavailable by the setting's name, with Retry-After; soon, and sooner once the circuit is open; ready all the same."""
    gateway = gateway_to(start_worker, tmp_path, "grpc://127.0.0.1:9,grpc://127.0.0.1:10", "")
    for _ in range(5):
        answer = gateway.post("/v1/text/embed", {"texts": ["a"]})
        assert (answer.status, answer.json["code"]) == (503, "unavailable")
        assert "TEXT_URL" in answer.json["detail"]
        assert int(answer.headers["retry-after"]) >= 1
    lines = b'{"texts": ["a"]}\n'
    headers = {"content-type": "application/x-ndjson"}
    assert b"unavailable" in gateway.request("POST", "/v1/text/embed-stream", body=lines, headers=headers).body
    health = gateway.get("/health", key=None)
    assert (health.status, health.json["status"]) == (200, "degraded")
    assert "TEXT_URL" in health.json["dependencies"]["upstream_text"]["error"]
    assert gateway.get("/readyz", key=None).status == 200


def test_a_worker_behind_that_is_full_says_when_to_come_back(
    pair: Pair, start_worker: Callable[..., Any], tmp_path: Path
) -> None:
    """Overloaded there is overloaded here, whether it is the worker's limit or that of SERVICE_KEY."""
    gate = pair.behind.app.entrance.gate
    taken = 0
    try:
        while gate.calls.taken < pair.behind.app.settings.max_concurrent_requests:
            gate.calls.take()
            taken += 1
        answer = pair.gateway.post("/v1/text/embed", {"texts": ["a"]})
    finally:
        for _ in range(taken):
            gate.calls.give()
    assert (answer.status, answer.json["code"]) == (503, "overloaded")
    assert int(answer.headers["retry-after"]) >= 1
    limited = start_worker(RATE_LIMIT_BURST="1", RATE_LIMIT_REQUESTS_PER_MINUTE="1")
    rpc = RpcClient(limited)
    try:
        key = limited.key(tier="free", email="free@example.org")
        gateway = gateway_to(start_worker, tmp_path, f"grpc://127.0.0.1:{rpc.server.port}", key)
        answers = [gateway.post("/v1/text/embed", {"texts": ["a"]}) for _ in range(2)]
        assert [one.status for one in answers] == [200, 503]
        assert answers[1].json["code"] == "overloaded"
        assert int(answers[1].headers["retry-after"]) > 1
    finally:
        rpc.close()


def test_workers_of_different_versions_say_so(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A method, a field of the request, one of the answer, the meter: 502 in words, not the caller's 400."""

    def ask_once() -> tuple[int, str, str]:
        answer = pair.gateway.post("/v1/text/embed", {"texts": ["a"]})
        return answer.status, answer.json["code"], answer.json["detail"]

    remote = pair.gateway.app.operations["text.embed"].run.__self__
    method = remote._method
    other = {
        "path": "/phalanx.v1.Text/Later",
        "request_of": lambda request: method.request_of(request) + b"\xf8\x7f\x01",
        "response_of": lambda data: method.response_of(data + b"\xf8\x7f\x01"),
    }
    for name, value in other.items():
        monkeypatch.setattr(remote, "_method", type(method)(**{**vars(method), name: value}))
        status, code, detail = ask_once()
        assert (status, code) == (502, "upstream_failed"), name
        assert "version" in detail
        assert "TEXT_URL" in detail
    monkeypatch.setattr(remote, "_method", method)
    monkeypatch.setattr("phalanx.upstreams.remote.used_of", lambda trailing: None)
    assert ask_once()[:2] == (502, "upstream_failed")


def test_the_deadline_goes_with_the_call(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller's own over gRPC: the worker behind sees what is left of it and is done with it when it passes."""
    seen: list[float] = []
    real = pair.rpc.edge._unary

    async def slow(exchange: Any, method: Any, limit: int) -> bytes:
        seen.append(exchange.context.time_remaining())
        await asyncio.sleep(5.0)
        return await real(exchange, method, limit)

    monkeypatch.setattr(pair.rpc.edge, "_unary", slow)
    front = RpcClient(pair.gateway)
    try:
        outcome = front.call(EMBED, {"texts": ["a"]}, within_s=0.5)
    finally:
        front.close()
    assert outcome.status is grpc.StatusCode.DEADLINE_EXCEEDED
    assert len(seen) == 1
    assert 0 < seen[0] < 1.0


def test_a_circle_of_workers_is_cut(pair: Pair, start_worker: Callable[..., Any], tmp_path: Path) -> None:
    """A worker behind that has TEXT_URL itself refuses: it might name the first one."""
    front = RpcClient(pair.gateway)
    try:
        key = pair.gateway.key(email="outer@example.org")
        outer = gateway_to(start_worker, tmp_path, f"grpc://127.0.0.1:{front.server.port}", key)
        answer = outer.post("/v1/text/embed", {"texts": ["a"]})
        assert (answer.status, answer.json["code"]) == (502, "upstream_failed")
        assert "TEXT_URL" in answer.json["detail"]
    finally:
        front.close()


def test_an_address_that_takes_connections_and_says_nothing_is_passed_over(
    pair: Pair, start_worker: Callable[..., Any], tmp_path: Path
) -> None:
    """Calls are answered by the other one, and soon: after three attempts the silent one is left alone."""
    silent = socket.create_server(("127.0.0.1", 0))
    try:
        url = f"grpc://127.0.0.1:{silent.getsockname()[1]},{pair.url}"
        gateway = gateway_to(start_worker, tmp_path, url, pair.behind.key(email="gateway@example.org"))
        answers = [gateway.post("/v1/text/embed", {"texts": ["a"]}) for _ in range(8)]
        assert [one.status for one in answers] == [200] * 8
        addresses = gateway.app.operations["text.embed"].run.__self__._workers._addresses
        assert [address.breaker.is_open for address in addresses] == [True, False]
    finally:
        silent.close()


def test_an_address_that_is_back_is_asked_before_its_pause_is_over(
    pair: Pair, start_worker: Callable[..., Any], tmp_path: Path
) -> None:
    """Where no other answers: one worker is back from its restart, and the next one is on its way out."""
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        gone = nobody.getsockname()[1]
    key = pair.behind.key(email="gateway@example.org")
    gateway = gateway_to(start_worker, tmp_path, f"{pair.url},grpc://127.0.0.1:{gone}", key)
    addresses = gateway.app.operations["text.embed"].run.__self__._workers._addresses
    breaker = addresses[0].breaker
    assert gateway.post("/v1/text/embed", {"texts": ["a"]}).status == 200
    for _ in range(3):
        breaker.begin()
        breaker.failed()
    breaker._open_until += 600.0
    assert not breaker.admits()
    assert gateway.post("/v1/text/embed", {"texts": ["b"]}).status == 200
    assert not breaker.is_open


def test_what_a_full_worker_refuses_another_one_does(
    pair: Pair, start_worker: Callable[..., Any], tmp_path: Path
) -> None:
    """UNAVAILABLE for want of room is no failure of the address: it is asked again the next time, and the circuit stays closed."""
    full = RpcClient(pair.behind)
    asked: list[str] = []

    async def refuse(exchange: Any, method: Any, limit: int) -> bytes:
        asked.append(exchange.request_id)
        raise Overloaded("there is no room", retry_after_s=7)

    full.edge._unary = refuse  # type: ignore[method-assign]
    key = pair.behind.key(email="gateway@example.org")
    try:
        gateway = gateway_to(start_worker, tmp_path, f"grpc://127.0.0.1:{full.server.port},{pair.url}", key)
        answers = [gateway.post("/v1/text/embed", {"texts": [f"full {n}"]}) for n in range(6)]
        assert [one.status for one in answers] == [200] * 6
        assert len(asked) >= 2
        addresses = gateway.app.operations["text.embed"].run.__self__._workers._addresses
        assert [address.breaker.is_open for address in addresses] == [False, False]
    finally:
        full.close()


def test_a_stream_whose_worker_goes_says_so(pair: Pair, start_worker: Callable[..., Any], tmp_path: Path) -> None:
    """What was answered is there and billed; then the error. It is not sent again: answers would come twice."""
    going = RpcClient(pair.behind)
    key = pair.behind.key(email="gateway@example.org")
    gateway = gateway_to(start_worker, tmp_path, f"grpc://127.0.0.1:{going.server.port}", key)
    real, written, ending = going.edge._write, [], []

    async def write(context: Any, data: bytes) -> None:
        written.append(data)
        if len(written) == 5:
            ending.append(asyncio.create_task(going.server.drain(at_once=True)))
        await real(context, data)
        await asyncio.sleep(0.02)

    going.edge._write = write  # type: ignore[method-assign]
    lines = b"".join(json.dumps({"texts": [f"text {n}"]}).encode() + b"\n" for n in range(200))
    headers = {"content-type": "application/x-ndjson"}
    own = gateway.key(email="streamer@example.org")
    answer = gateway.request("POST", "/v1/text/embed-stream", body=lines, headers=headers, key=own)

    async def close() -> None:
        await asyncio.gather(*ending)
        await going.channel.close()

    gateway.run(close())
    *given, last = [json.loads(line) for line in answer.body.splitlines()]
    assert len(given) >= 4
    assert "unavailable" in json.dumps(last)
    totals = gateway.totals("streamer@example.org")
    assert (totals.requests, totals.tokens) == (1, sum(one["usage"]["tokens"] for one in given))


def test_mutual_tls_between_workers(worker: Any, start_worker: Callable[..., Any], tmp_path: Path) -> None:
    """grpcs:// with the authority and a certificate of one's own; without them there is no connection, which is a 503."""
    ca, _, authority = certificate(tmp_path, "authority")
    cert, key, _ = certificate(tmp_path, "server", authority)
    mine, my_key, _ = certificate(tmp_path, "client", authority)
    channel_tls = grpc.ssl_channel_credentials(ca.read_bytes(), my_key.read_bytes(), mine.read_bytes())
    rpc = RpcClient(worker, tls=GrpcTls(cert, key, ca), channel_tls=channel_tls)
    url, service_key = f"grpcs://localhost:{rpc.server.port}", worker.key(email="gateway@example.org")
    own = {"SERVICE_TLS_CERT_FILE": str(mine), "SERVICE_TLS_KEY_FILE": str(my_key)}
    try:
        for environ, status in (
            ({"SERVICE_TLS_CA_FILE": str(ca), **own}, 200), ({"SERVICE_TLS_CA_FILE": str(ca)}, 503), (own, 503),
        ):  # fmt: skip
            gateway = gateway_to(start_worker, tmp_path / "none", url, service_key, **environ)
            assert gateway.post("/v1/text/embed", {"texts": ["a"]}).status == status, environ
    finally:
        rpc.close()


def test_when_one_of_two_goes_no_call_fails(pair: Pair, start_worker: Callable[..., Any], tmp_path: Path) -> None:
    """Both have calls; one ends in the middle of them; every call is answered. When all are back both have calls again."""
    second = RpcClient(pair.behind)
    key = pair.behind.key(email="gateway@example.org")
    gateway = gateway_to(start_worker, tmp_path, f"{pair.url},grpc://127.0.0.1:{second.server.port}", key)
    row = gateway.app.operations["text.embed"]
    addresses = row.run.__self__._workers._addresses
    counts = [0, 0]
    for place, client in enumerate((pair.rpc, second)):

        def counted(real: Any, place: int) -> Any:
            async def answer(exchange: Any, method: Any, limit: int) -> bytes:
                counts[place] += 1
                await asyncio.sleep(0.005)
                return await real(exchange, method, limit)  # type: ignore[no-any-return]

            return answer

        client.edge._unary = counted(client.edge._unary, place)  # type: ignore[method-assign]

    async def crowd() -> list[int]:
        sent = {"content-type": "application/json", "authorization": f"Bearer {gateway.key()}"}
        found: list[int] = []

        async def caller(number: int) -> None:
            for turn in range(20):
                body = json.dumps({"texts": [f"{number} {turn}"]}).encode()
                answer = await gateway._exchange("POST", "/v1/text/embed", [body], sent, None)
                found.append(answer.status)
                if len(found) == 60:
                    await second.server.drain(at_once=True)

        await asyncio.gather(*(caller(number) for number in range(8)))
        return found

    gateway.key()
    try:
        found = gateway.run(crowd())
    finally:
        del pair.rpc.edge._unary
        second.worker.run(second.channel.close())
    assert found == [200] * 160
    assert min(counts) >= 20
    assert [address.under_way for address in addresses] == [0, 0]


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"TEXT_URL": "http://host:1"}, "grpc://host:port"),
        ({"TEXT_URL": "grpc://host"}, "GRPC_PORT"),
        ({"TEXT_URL": "grpc://host:99999"}, "TEXT_URL"),
        ({"TEXT_URL": "grpc://host:1/path"}, "path"),
        ({"TEXT_URL": "grpc://key@host:1"}, "SERVICE_KEY"),
        ({"FACES_URL": ",".join(["grpc://host:1"] * 65)}, "64 are allowed"),
        ({"TEXT_URL": "grpc://host:1", "SERVICES": "faces"}, "SERVICES"),
        ({"SERVICE_TLS_CERT_FILE": "/dev/null", "TEXT_URL": "grpcs://host:1"}, "SERVICE_TLS_KEY_FILE"),
        ({"SERVICE_TLS_CA_FILE": "/nowhere.pem"}, "SERVICE_TLS_CA_FILE"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, environ: dict[str, str], said: str) -> None:
    """Each in words that name what to mend, and no secret."""
    with pytest.raises(SettingsError) as refused:
        load(environ, folder=tmp_path)
    assert said in str(refused.value)
    assert "key@" not in str(refused.value)
