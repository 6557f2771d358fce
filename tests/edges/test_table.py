"""Every row of the table, plug-ins' too, over its canonical route: the same rules for all."""

from __future__ import annotations

import asyncio
import json
import re
import struct
from typing import Any

import numpy as np
import pytest

from phalanx.edges.http.codec import needs_no_body
from phalanx.engines.runner import Runner
from phalanx.errors import DeadlineExceeded
from phalanx.operations import Body, Kind, Operation, index, table
from phalanx.operations.images import DOT

ROWS = table()
WITH_EXAMPLE = [row for row in ROWS.values() if row.examples]
WITH_JSON = [row for row in ROWS.values() if Body.JSON in row.bodies]


CLOSED = [row for row in ROWS.values() if row.scope != "open"]
SCOPED = [row for row in WITH_EXAMPLE if row.scope not in (None, "open")]


def names(rows: list[Operation]) -> list[str]:
    return [row.name for row in rows]


def filled(path: str) -> str:
    """Return a row's path with something in place of its parameters."""
    return re.sub(r"\{\w+(:path)?\}", "x", path)


def send(worker: Any, row: Operation, example: dict[str, Any], **rest: Any) -> Any:
    """Send an example request to a row's route, path fields in the path, a client stream as lines."""
    path, fields = row.path, dict(example)
    for name in list(fields):
        for form in (f"{{{name}}}", f"{{{name}:path}}"):
            if form in path:
                path = path.replace(form, str(fields.pop(name)))
    if row.bodies == (Body.NONE,):
        return worker.request(row.method, path, **rest)
    if row.kind is Kind.CLIENT_STREAM:
        headers = {"content-type": "application/x-ndjson", **rest.pop("headers", {})}
        lines = b"".join(json.dumps(one).encode() + b"\n" for one in row.examples)
        return worker.request(row.method, path, body=lines, headers=headers, **rest)
    return worker.request(row.method, path, json_body=fields, **rest)


def prepare(worker: Any, row: Operation, example: dict[str, Any], key: str) -> None:
    """Make what an example is about: the collection that it names, as the table's own examples make it, with a point."""
    if "/collections/{name}" not in row.path or row.name == "collections.create":
        return
    for making in ("collections.create", "collections.upsert"):
        for known in ROWS[making].examples:
            if known["name"] == example["name"] and making != row.name:
                answer = send(worker, ROWS[making], known, key=key)
                assert answer.status == 200, answer.body


@pytest.mark.parametrize("row", WITH_EXAMPLE, ids=names(WITH_EXAMPLE))
def test_examples_work_and_are_billed_once(worker: Any, row: Operation) -> None:
    """Each example answers 200 and leaves exactly one event."""
    for number, example in enumerate(row.examples[: 1 if row.kind is Kind.CLIENT_STREAM else None]):
        organisation = f"{row.name}{number}@example.org"
        key = worker.key(email=organisation)
        billed_to = "anonymous" if row.scope == "open" else organisation
        prepare(worker, row, example, key)
        before = worker.totals(billed_to)
        answer = send(worker, row, example, key=key)
        assert answer.status == row.status, answer.body
        after = worker.totals(billed_to)
        assert after.requests - before.requests == 1
        assert after.billed - before.billed == row.metered
        assert after.errors == before.errors


@pytest.mark.parametrize("row", CLOSED, ids=names(CLOSED))
def test_a_stranger_is_refused_before_the_body_is_read(worker: Any, row: Operation) -> None:
    """No credential: 401, although the body is rubbish."""
    answer = worker.request(row.method, filled(row.path), body=b"{rubbish", key=None)
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("row", SCOPED, ids=names(SCOPED))
def test_a_key_without_the_scope_is_refused(worker: Any, row: Operation) -> None:
    """403 that names the scope."""
    other = "usage" if row.scope != "usage" else "text"
    answer = send(worker, row, row.examples[0], key=worker.key(scopes=(other,), email="narrow@example.org"))
    assert answer.status == 403
    assert repr(row.scope) in answer.json["detail"]


@pytest.mark.parametrize("row", WITH_JSON, ids=names(WITH_JSON))
def test_an_unknown_field_is_named(worker: Any, row: Operation) -> None:
    """Canonical requests are strict."""
    if row.kind is Kind.CLIENT_STREAM:
        pytest.skip("a stream's messages are read after its head is sent; see test_streams")
    example = {name: sent for name, sent in (row.examples or ({},))[0].items() if f"{{{name}}}" not in row.path}
    answer = worker.request(row.method, filled(row.path), json_body={**example, "colour": "red"})
    assert answer.status == 400
    assert answer.json["code"] == "invalid_request"
    assert answer.json["param"] == "colour"


@pytest.mark.parametrize("row", WITH_JSON, ids=names(WITH_JSON))
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"nul", b"\xff\xfe", b"[" * 10_000, b'{"a":' * 10_000])
def test_a_body_that_is_no_request_is_refused(worker: Any, row: Operation, body: bytes) -> None:
    """Truncated, wrong type, not UTF-8, nested ten thousand deep: 400, and the worker goes on."""
    if row.kind is Kind.CLIENT_STREAM:
        pytest.skip("see test_streams")
    if not body and needs_no_body(row):
        pytest.skip("see test_a_body_that_nothing_is_needed_of_may_be_left_out")
    answer = worker.request(row.method, filled(row.path), body=body)
    assert answer.status == 400, answer.body
    assert answer.json["code"] == "invalid_request"


def test_a_body_that_nothing_is_needed_of_may_be_left_out(worker: Any) -> None:
    """`fetch(url, {method: "POST"})` sends no body and no type; what is not there is neither damaged nor of another type."""
    made = worker.post("/v1/keys", {"email": "bodyless@example.org"}).json["record"]
    bare = {"content-type": "", "content-length": "0"}
    rotated = worker.request("POST", f"/v1/keys/{made['id']}/rotate", body=b"", headers=bare)
    assert (rotated.status, rotated.json["record"]["email"]) == (200, "bodyless@example.org")
    user = {"email": "leaving@example.org", "password": "a long walk home"}
    assert worker.post("/v1/auth/signup", user, key=None).status == 200
    token = worker.post("/v1/auth/login", user, key=None).json["access_token"]
    assert worker.request("POST", "/v1/auth/logout", body=b"", headers=bare, key=token).status == 200
    assert worker.get("/v1/auth/me", key=token).status == 401
    nothing = worker.request("POST", "/v1/collections/x/points/delete", body=b"", headers=bare)
    assert (nothing.status, nothing.json["code"]) == (400, "invalid_request")
    needed = worker.request("POST", "/v1/text/embed", body=b"", headers=bare)
    assert needed.status == 415


@pytest.mark.parametrize("row", WITH_JSON, ids=names(WITH_JSON))
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_another_content_type_is_refused(worker: Any, row: Operation, kind: str) -> None:
    """415 that says what to send."""
    answer = worker.request(row.method, filled(row.path), body=b"{}", headers={"content-type": kind})
    assert answer.status == 415
    assert "send" in answer.json["detail"]


@pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))
def test_another_method_is_refused(worker: Any, row: Operation) -> None:
    """405 with the methods that there are."""
    answered = {other.method for other in ROWS.values() if other.path == row.path}
    method = next(method for method in ("PUT", "PATCH") if method not in answered)
    answer = worker.request(method, filled(row.path), body=b"{}")
    assert answer.status == 405
    assert row.method in answer.headers["allow"]


@pytest.mark.parametrize("row", WITH_JSON, ids=names(WITH_JSON))
def test_a_body_over_the_limit_is_refused_by_its_length(worker: Any, row: Operation) -> None:
    """413 with both numbers, and the connection is closed rather than the body read."""
    if row.kind is Kind.CLIENT_STREAM:
        pytest.skip("a stream has no length")
    answer = worker.request(row.method, filled(row.path), body=b"{}", headers={"content-length": "99999999"})
    assert answer.status == 413
    assert "99999999" in answer.json["detail"]
    assert str(row.max_body_bytes or 10485760) in answer.json["detail"]
    assert answer.headers["connection"] == "close"


def test_a_chunked_body_over_the_limit_is_refused(worker: Any) -> None:
    """A body without a length is counted as it comes."""
    answer = worker.request(
        "POST", "/v1/text/embed", body=[b"x" * 2**20] * 11, headers={"transfer-encoding": "chunked"}
    )
    assert answer.status == 413


def test_every_answer_carries_id_and_timing(worker: Any) -> None:
    """The caller's own request id comes back; the timing has three parts."""
    answer = worker.post("/v1/text/embed", {"texts": ["a"]}, headers={"x-request-id": "abc-123"})
    assert answer.headers["x-request-id"] == "abc-123"
    assert [part.split(";")[0] for part in answer.headers["server-timing"].split(", ")] == ["queue", "engine", "total"]
    assert answer.headers["x-model"] == "all-MiniLM-L6-v2"
    assert answer.headers["x-model-version"]
    for path in ("/livez", "/none/such"):
        other = worker.get(path, headers={"x-request-id": "abc-123"})
        assert other.headers["x-request-id"] == "abc-123"
        assert list(timing(other)) == ["queue", "engine", "total"]


def test_a_refusal_repeats_no_name_without_end(worker: Any) -> None:
    """The answer to a megabyte of a wrong name is short."""
    for body in ({"texts": ["a"], "model": "m" * 2**20}, {"texts": ["a"], "k" * 2**20: 1}):
        answer = worker.post("/v1/text/embed", body)
        assert answer.status in (400, 404)
        assert len(answer.body) < 2000


def timing(answer: Any) -> dict[str, float]:
    parts = (part.split(";dur=") for part in answer.headers["server-timing"].split(", "))
    return {name: float(ms) for name, ms in parts}


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/text/embed", {"texts": ["never seen"]}), ("/v1/faces/detect", {"image": DOT, "min_confidence": 0.987})],
    ids=["text", "face"],
)
def test_a_failure_says_how_long_it_waited(
    worker: Any, path: str, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who comes too late has waited, and who was refused at the door has not."""

    async def too_late(*_: Any, **__: Any) -> None:
        await asyncio.sleep(0.05)
        raise DeadlineExceeded

    monkeypatch.setattr(Runner, "submit", too_late)
    late = worker.post(path, body)
    assert (late.status, list(timing(late))) == (504, ["queue", "engine", "total"])
    assert 25 < timing(late)["queue"] <= timing(late)["total"]
    refused = worker.post(path, body, key=None)
    assert (refused.status, timing(refused)["queue"], timing(refused)["engine"]) == (401, 0, 0)


@pytest.mark.parametrize("unsafe", ["a b", "x" * 129, "a\tb", "é"])
def test_an_unsafe_request_id_is_replaced(worker: Any, unsafe: str) -> None:
    """What could break a log line does not get into it."""
    answer = worker.get("/v1/models", headers={"x-request-id": unsafe})
    assert len(answer.headers["x-request-id"]) == 32


def test_an_unknown_route_is_a_problem(worker: Any) -> None:
    """404 in the canonical envelope."""
    answer = worker.get("/v1/nothing")
    assert answer.status == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert set(answer.json) == {"type", "title", "status", "detail", "code", "request_id"}


def test_models_can_be_revalidated(worker: Any) -> None:
    """The ETag brings 304."""
    first = worker.get("/v1/models")
    again = worker.get("/v1/models", headers={"if-none-match": first.headers["etag"]})
    assert (again.status, again.body) == (304, b"")


def test_two_rows_may_not_share_a_name_or_a_route() -> None:
    """A plug-in cannot shadow a row."""
    row = ROWS["text.embed"]
    with pytest.raises(ValueError, match=r"two operations are called 'text\.embed'"):
        index([row, row])


def test_an_image_may_be_the_raw_body(worker: Any) -> None:
    """Other fields come from the query."""
    answer = worker.post("/v1/example/digest?note=hi", body=b"\x89PNG", headers={"content-type": "image/png"})
    assert (answer.status, answer.json["size_bytes"], answer.json["note"]) == (200, 4, "hi")


def test_an_image_may_be_a_form(worker: Any) -> None:
    """The file is the image, other parts are fields."""
    form = (
        b'--b\r\nContent-Disposition: form-data; name="note"\r\n\r\nhi\r\n'
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n\x89PNG\r\n--b--\r\n'
    )
    answer = worker.post("/v1/example/digest", body=form, headers={"content-type": "multipart/form-data; boundary=b"})
    assert (answer.status, answer.json["size_bytes"], answer.json["note"]) == (200, 4, "hi")


@pytest.mark.parametrize("kind", ["multipart/form-data", "multipart/form-data; boundary=c"])
def test_a_broken_form_is_refused(worker: Any, kind: str) -> None:
    """No boundary, or another one."""
    assert worker.post("/v1/example/digest", body=b"--b\r\nrubbish", headers={"content-type": kind}).status == 400


def test_vectors_may_be_binary(worker: Any) -> None:
    """Header and float32 rows in, float32 out."""
    left, right = np.eye(2, 3, dtype="<f4"), np.arange(9, dtype="<f4").reshape(3, 3)
    body = struct.pack("<III", 2, 3, 3) + left.tobytes() + right.tobytes()
    answer = worker.post("/v1/example/dot", body=body, headers={"content-type": "application/octet-stream"})
    assert answer.headers["content-type"] == "application/octet-stream"
    assert np.array_equal(np.frombuffer(answer.body, "<f4").reshape(2, 3), left @ right.T)


@pytest.mark.parametrize(
    "body", [b"", b"\x01\x00", struct.pack("<III", 1, 1, 4), struct.pack("<III", 2**32 - 1, 2**32 - 1, 2**32 - 1)]
)
def test_broken_binary_vectors_are_refused(worker: Any, body: bytes) -> None:
    """Too short, or a header that promises more than there is."""
    answer = worker.post("/v1/example/dot", body=body, headers={"content-type": "application/octet-stream"})
    assert answer.status == 400
