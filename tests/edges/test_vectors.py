"""Vectors over HTTP: JSON and binary, both routes, the limit of the body, and what is refused."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

CANONICAL, AURUM = "/v1/vectors/similarity", "/api/calculate-similarity"
BOTH = pytest.mark.parametrize("path", [CANONICAL, AURUM])
OCTETS = {"content-type": "application/octet-stream"}


def binary(left: Any, right: Any) -> bytes:
    left, right = np.asarray(left, "<f4"), np.asarray(right, "<f4")
    return b"".join((struct.pack("<III", len(left), len(right), left.shape[1]), left.tobytes(), right.tobytes()))


def problem(path: str, answer: Any) -> tuple[str, str]:
    """Return code and sentence from the envelope of either route."""
    if path == CANONICAL:
        return answer.json["code"], answer.json["detail"]
    assert set(answer.json) == {"error", "request_id"}
    return answer.json["error"]["code"], answer.json["error"]["message"]


@BOTH
def test_every_form_as_json(worker: Any, path: str) -> None:
    """An answer has what its form asks for, and nothing else."""
    assert worker.post(path, {"a": [1, 0], "b": [3, 4]}).json == {"similarity": pytest.approx(0.6)}
    many = {"query": [1, 0], "candidates": [[3, 4], [2, 0]]}
    assert worker.post(path, many).json == {"scores": [pytest.approx(0.6), 1.0]}
    assert worker.post(path, {**many, "top_k": 1}).json == {"matches": [{"index": 1, "score": 1.0}]}
    square = {"left": [[0, 0]], "right": [[3, 4], [0, 1]], "metric": "euclidean"}
    assert worker.post(path, square).json == {"matrix": [[5.0, 1.0]]}


@BOTH
def test_binary_is_what_json_is(worker: Any, path: str) -> None:
    """Float32 in row order; the metric is in the query."""
    draw = np.random.default_rng(3)
    left, right = (draw.standard_normal((n, 17), dtype=np.float32) for n in (3, 4))
    for metric in ("cosine", "euclidean", "dot"):
        sent = worker.post(f"{path}?metric={metric}", body=binary(left, right), headers=OCTETS)
        assert (sent.status, sent.headers["content-type"]) == (200, "application/octet-stream")
        asked = {"left": left.tolist(), "right": right.tolist(), "metric": metric}
        whole = np.array(worker.post(path, asked).json["matrix"], "<f4")
        assert np.array_equal(np.frombuffer(sent.body, "<f4").reshape(3, 4), whole)


@BOTH
@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({}, 400, "send one form"),
        ({"a": [1]}, 400, "this request has a"),
        ({"a": [1], "b": [1], "query": [1]}, 400, "a and b and query"),
        ({"a": [1, 2], "b": [1, 2, 3]}, 400, "a have 2 numbers, those of b 3"),
        ({"a": [], "b": []}, 400, "a is empty"),
        ({"query": [1], "candidates": []}, 400, "candidates is empty"),
        ({"query": [1], "candidates": [[1], [1, 2]]}, 400, "candidates[1] has 2 numbers, candidates[0] has 1"),
        ({"query": [1], "candidates": [[1], ["x"]]}, 400, "$.candidates[1][0]"),
        ({"a": [True], "b": [1]}, 400, "$.a[0]"),
        ({"a": [None], "b": [1]}, 400, "$.a[0]"),
        ({"a": "1", "b": [1]}, 400, "$.a"),
        ({"a": [1], "b": [1], "metric": "manhattan"}, 400, "$.metric"),
        ({"query": [1], "candidates": [[1]], "top_k": 0}, 400, "$.top_k"),
        ({"a": [0, 0], "b": [1, 1]}, 422, "a is a zero vector"),
        ({"query": [1], "candidates": [[1], [0]]}, 422, "candidates[1] is a zero vector"),
        ({"a": [1e39], "b": [1]}, 422, "a has a number that is NaN, infinite or beyond float32"),
        ({"query": [3e38], "candidates": [[3e38]], "metric": "dot"}, 422, "beyond float32"),
    ],
)
def test_what_cannot_be_compared_is_refused(worker: Any, path: str, body: Any, status: int, said: str) -> None:
    """By name of the vector, and with both sizes."""
    answer = worker.post(path, body)
    code, detail = problem(path, answer)
    assert answer.status == status, answer.body
    assert code == ("invalid_request" if status == 400 else "unreadable_input")
    assert said in detail


@BOTH
@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"0x1", b"01"])
def test_what_is_no_json_number_is_refused(worker: Any, path: str, number: bytes) -> None:
    answer = worker.post(path, body=b'{"a":[' + number + b'],"b":[1]}')
    assert (answer.status, problem(path, answer)[0]) == (400, "invalid_request")


@BOTH
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_binary_numbers_that_are_none_are_refused(worker: Any, path: str, bad: float) -> None:
    answer = worker.post(path, body=binary([[1, 2]], [[1, 2], [bad, 0]]), headers=OCTETS)
    assert answer.status == 422
    assert "right[1] has a number" in problem(path, answer)[1]


@BOTH
@pytest.mark.parametrize(
    "body",
    [
        b"", b"\1\0", struct.pack("<III", 1, 1, 4), struct.pack("<III", 2**32 - 1, 2**32 - 1, 2**32 - 1),
        struct.pack("<III", 0, 0, 0), struct.pack("<III", 0, 1, 1) + bytes(4), struct.pack("<III", 2, 2, 0),
        binary([[1.0]], [[1.0]]) + b"\0",
    ],
)  # fmt: skip
def test_broken_binary_bodies_are_refused(worker: Any, path: str, body: bytes) -> None:
    """Cut off, empty, of no width, or longer than they say."""
    answer = worker.post(path, body=body, headers=OCTETS)
    assert (answer.status, problem(path, answer)[0]) == (400, "invalid_request")


def test_a_query_of_a_binary_body_is_strict(worker: Any) -> None:
    body = binary([[1.0]], [[1.0]])
    for query, named in (("metric=x", "metric"), ("colour=red", "colour"), ("top_k=1", "top_k")):
        answer = worker.post(f"{CANONICAL}?{query}", body=body, headers=OCTETS)
        assert (answer.status, answer.json["param"]) == (400, named)
    assert worker.post(f"{AURUM}?colour=red", body=body, headers=OCTETS).status == 200


def test_many_rows_of_no_width_take_no_memory(worker: Any) -> None:
    """A header alone can promise four thousand million empty rows."""
    answer = worker.post(CANONICAL, body=struct.pack("<III", 2**32 - 1, 1, 0), headers=OCTETS)
    assert answer.status in (400, 413)


def test_vectors_may_have_sixteen_mebibytes(worker: Any, start_worker: Callable[..., Any]) -> None:
    """Unless the operator set a limit, which then holds here too."""
    for path in (CANONICAL, AURUM):
        body = b'{"a":[1],"b":[1]' + b" " * (12 * 2**20) + b"}"
        assert worker.post(path, body=body).status == 200
        too_large = worker.post(path, body=b"{}", headers={"content-length": str(16 * 2**20 + 1)})
        assert (too_large.status, str(16 * 2**20) in problem(path, too_large)[1]) == (413, True)
    strict = start_worker(MAX_REQUEST_SIZE_BYTES="2000")
    assert strict.post(CANONICAL, {"a": [1.0] * 1000, "b": [1.0]}).status == 413


def test_what_was_compared_is_metered(worker: Any) -> None:
    """Every vector that was sent; what failed bills none."""
    key, who = worker.key(email="vectors@example.org"), "vectors@example.org"
    worker.post(CANONICAL, body=binary([[1.0]], [[1.0], [2.0]]), headers=OCTETS, key=key)
    worker.post(AURUM, {"a": [1], "b": [2]}, key=key)
    worker.post(CANONICAL, {"a": [0], "b": [2]}, key=key)
    totals = worker.totals(who)
    assert (totals.requests, totals.billed, totals.errors, totals.units) == (3, 2, 1, 5)


@pytest.mark.parametrize("body", [json.dumps({"a": [1], "b": [2]}).encode(), binary([[1.0]], [[2.0], [3.0]])])
def test_a_repeated_key_brings_the_first_answer_back(worker: Any, body: bytes) -> None:
    """Arrays survive being kept."""
    headers = {"idempotency-key": f"vectors-{len(body)}"} | (OCTETS if body[:1] != b"{" else {})
    first, again = (worker.post(CANONICAL, body=body, headers=headers) for _ in range(2))
    assert (first.status, first.body) == (200, again.body)
    assert again.headers["idempotency-replayed"] == "true"
