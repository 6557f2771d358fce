"""Every row of the table, plug-ins' too, over gRPC: the answer, the error and the usage that HTTP gives."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from edges.rpc import RpcClient
from phalanx.edges.json_body import encode_json
from phalanx.operations import Kind, Operation, table

ROWS = table()
WITH_EXAMPLE = [row for row in ROWS.values() if row.examples]
CLOSED = [row for row in ROWS.values() if row.scope != "open"]
SCOPED = [row for row in WITH_EXAMPLE if row.scope not in (None, "open")]
COMPUTED = ("text", "images", "faces", "vectors", "models", "example")
"""Nouns whose answers depend on the request alone, but for what is measured."""


def names(rows: list[Operation]) -> list[str]:
    return [row.name for row in rows]


@pytest.fixture(scope="module")
def rpc(worker: Any) -> Iterator[RpcClient]:
    client = RpcClient(worker)
    yield client
    client.close()


def essence(value: Any) -> Any:
    """Return JSON without what protocol buffers cannot tell from nothing: null and the empty list."""
    if isinstance(value, dict):
        return {name: essence(one) for name, one in value.items() if one not in (None, [], {})}
    return [essence(one) for one in value] if isinstance(value, list) else value


def keys_of(value: Any) -> Any:
    """Return the names in JSON, without the values."""
    if isinstance(value, dict):
        return {name: keys_of(one) for name, one in sorted(value.items())}
    return [keys_of(value[0])] if isinstance(value, list) and value else ""


def over_http(worker: Any, row: Operation, example: dict[str, Any], key: str) -> Any:
    path, fields = row.path, dict(example)
    for name in list(fields):
        for form in (f"{{{name}}}", f"{{{name}:path}}"):
            if form in path:
                path = path.replace(form, str(fields.pop(name)))
    if row.kind is Kind.CLIENT_STREAM:
        lines = b"".join(json.dumps(one).encode() + b"\n" for one in row.examples)
        answer = worker.request(row.method, path, body=lines, headers={"content-type": "application/x-ndjson"}, key=key)
        return [json.loads(line) for line in answer.body.splitlines()]
    if row.method == "GET":
        pairs = "&".join(f"{name}={value}" for name, value in fields.items())
        return [worker.get(f"{path}?{pairs}" if pairs else path, key=key).json]
    headers = {"accept": "application/x-ndjson"} if row.kind is Kind.SERVER_STREAM else {}
    answer = worker.request(row.method, path, json_body=fields, headers=headers, key=key)
    return [json.loads(line) for line in answer.body.splitlines()]


@pytest.mark.parametrize("row", WITH_EXAMPLE, ids=names(WITH_EXAMPLE))
def test_answers_and_usage_are_those_of_http(worker: Any, rpc: RpcClient, row: Operation) -> None:
    """Each example, once over each edge, by two callers that are alike: the same response, the same event."""
    for number, example in enumerate(row.examples[: 1 if row.kind is Kind.CLIENT_STREAM else None]):
        said, used = {}, {}
        for edge in ("http", "grpc"):
            organisation = f"{edge}-{row.name}{number}@example.org"
            key = worker.key(email=organisation)
            billed_to = "anonymous" if row.scope == "open" else organisation
            prepare(worker, row, example, key)
            before = worker.totals(billed_to)
            if edge == "http":
                said[edge] = over_http(worker, row, {**example, **own(row, edge, number)}, key)
            else:
                sent = row.examples if row.kind is Kind.CLIENT_STREAM else [{**example, **own(row, edge, number)}]
                outcome = rpc.call(row, *sent, key=key)
                assert outcome.status is grpc.StatusCode.OK, outcome.detail
                said[edge] = [json.loads(encode_json(one)) for one in outcome.responses]
            after = worker.totals(billed_to)
            used[edge] = [getattr(after, name) - getattr(before, name) for name in after.__struct_fields__]
        assert used["grpc"] == used["http"]
        assert used["grpc"][0] == 1
        compared = essence if row.noun in COMPUTED else lambda value: keys_of(essence(value))
        if row.name == "system.status":
            # What has been counted by then differs.
            said = {edge: [sorted(essence(one)) for one in answers] for edge, answers in said.items()}
        assert compared(said["grpc"]) == compared(said["http"])


def prepare(worker: Any, row: Operation, example: dict[str, Any], key: str) -> None:
    """Make the collection that an example is about, as the table's own examples make it, with a point."""
    for making in ("collections.create", "collections.upsert"):
        if row.noun == "collections" and row.name not in (making, "collections.create"):
            for known in ROWS[making].examples:
                if known["name"] == example.get("name"):
                    over_http(worker, ROWS[making], known, key)


def own(row: Operation, edge: str, number: int) -> dict[str, Any]:
    """Return what an example must not share with the other edge's: an account can be made once."""
    return {"email": f"{edge}{number}-{row.name}@example.org"} if "email" in row.examples[0] else {}


@pytest.mark.parametrize("row", CLOSED, ids=names(CLOSED))
def test_a_stranger_is_refused_before_the_message_is_read(rpc: RpcClient, row: Operation) -> None:
    """No credential: UNAUTHENTICATED, although the message is rubbish and larger than any may be."""
    outcome = rpc.call(row, raw=[b"\xff" * (2**20)], key=None)
    assert (outcome.status, outcome.code) == (grpc.StatusCode.UNAUTHENTICATED, "unauthenticated")


@pytest.mark.parametrize("row", SCOPED, ids=names(SCOPED))
def test_a_key_without_the_scope_is_refused(worker: Any, rpc: RpcClient, row: Operation) -> None:
    """PERMISSION_DENIED that names the scope."""
    other = "usage" if row.scope != "usage" else "text"
    outcome = rpc.call(row, row.examples[0], key=worker.key(scopes=(other,), email="narrow@example.org"))
    assert (outcome.status, outcome.code) == (grpc.StatusCode.PERMISSION_DENIED, "forbidden")
    assert repr(row.scope) in outcome.detail


@pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))
@pytest.mark.parametrize("message", [b"\xff\xff", b"\x0a\x7f", b"\xf8\x7f\x01", b"\x0b" * 2000], ids=repr)
def test_a_message_that_is_no_request_is_refused(rpc: RpcClient, row: Operation, message: bytes) -> None:
    """Torn, of another wire type, with a field that the request does not have, nested: INVALID_ARGUMENT."""
    outcome = rpc.call(row, raw=[message])
    assert (outcome.status, outcome.code) == (grpc.StatusCode.INVALID_ARGUMENT, "invalid_request"), outcome.detail


@pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))
def test_a_message_over_the_limit_is_refused(rpc: RpcClient, row: Operation) -> None:
    """Both numbers are said, as over HTTP."""
    limit = row.max_body_bytes or 10485760
    outcome = rpc.call(row, raw=[bytes(limit + 1)])
    assert (outcome.status, outcome.code) == (grpc.StatusCode.INVALID_ARGUMENT, "too_large")
    assert str(limit) in outcome.detail
    assert str(limit + 1) in outcome.detail


@pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))
def test_a_call_without_a_message_is_refused(rpc: RpcClient, row: Operation) -> None:
    """Of a method that takes one; a client stream may be empty."""
    outcome = rpc.call(row, raw=[])
    if row.kind is Kind.CLIENT_STREAM:
        assert (outcome.code, outcome.responses) == ("ok", [])
    else:
        assert outcome.code == "invalid_request"


def test_errors_of_services_are_those_of_http(worker: Any, rpc: RpcClient) -> None:
    """The same code and sentence, by whatever edge it came."""
    for name, request in (
        ("text.embed", {"texts": []}), ("text.embed", {"texts": [" "]}), ("text.embed", {"texts": ["a"], "model": "no"}),
        ("text.embed", {"texts": ["a"], "dimensions": 9999}), ("text.embed", {"texts": ["a"], "truncate": "middle"}),
        ("vectors.similarity", {"a": [1.0], "b": [1.0, 2.0]}),
        ("images.process", {"image": "bm8="}), ("keys.revoke", {"id": "no"}),
    ):  # fmt: skip
        row = ROWS[name]
        if row.method == "POST":
            expected = worker.post(row.path, request).json
        else:
            expected = worker.request(row.method, row.path.replace("{id}", "no")).json
        if name == "text.embed" and "truncate" in request:
            outcome = rpc.call(row, raw=[b'\x0a\x03\x0a\x01a"\x06middle'])
        elif "dimensions" in request:
            outcome = rpc.call(row, {"texts": ["a"], "dimensions": 9999})
        else:
            outcome = rpc.call(row, request)
        if "status" not in expected:
            assert outcome.code == "ok", (name, outcome.detail)
            continue
        assert (outcome.code, outcome.detail) == (expected["code"], expected["detail"])
        violations = outcome.info["BadRequest"].field_violations if "BadRequest" in outcome.info else []
        assert [one.field for one in violations] == [expected[name] for name in ("param",) if name in expected]
