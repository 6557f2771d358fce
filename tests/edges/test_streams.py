"""Streaming rows over HTTP: framing, errors in the middle, the ticket's end."""

from __future__ import annotations

import json
from typing import Any

COUNT = "/v1/example/count"
ADD = "/v1/example/add"
NDJSON = {"content-type": "application/x-ndjson"}


def test_a_server_stream_is_events(worker: Any) -> None:
    """One event a message, and one that says it is done."""
    answer = worker.post(COUNT, {"to": 2})
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.body == b'data: {"number":1}\n\ndata: {"number":2}\n\nevent: done\ndata: {}\n\n'
    assert answer.headers["x-accel-buffering"] == "no"


def test_a_server_stream_may_be_lines(worker: Any) -> None:
    """Accept chooses."""
    answer = worker.post(COUNT, {"to": 2}, headers={"accept": "application/x-ndjson"})
    assert [json.loads(line) for line in answer.body.splitlines()] == [{"number": 1}, {"number": 2}]


def test_messages_are_sent_one_by_one(worker: Any) -> None:
    """Nothing is collected."""
    assert len(worker.post(COUNT, {"to": 5}).chunks) == 6


def test_an_empty_stream_ends_well(worker: Any) -> None:
    """No message, no error."""
    assert worker.post(COUNT, {"to": 0}).body == b"event: done\ndata: {}\n\n"


def test_an_error_before_the_first_message_has_its_own_status(worker: Any) -> None:
    """The head is sent only with the first message."""
    answer = worker.post(COUNT, {"to": 3, "fail_at": 1})
    assert (answer.status, answer.json["code"]) == (400, "invalid_request")


def test_an_error_in_the_middle_is_the_last_event(worker: Any) -> None:
    """What was sent stays; no `done` follows."""
    answer = worker.post(COUNT, {"to": 3, "fail_at": 3})
    *numbers, last, end = answer.body.split(b"\n\n")
    assert (len(numbers), end) == (2, b"")
    assert last.startswith(b"event: error\ndata: ")
    assert json.loads(last.split(b"data: ")[1])["code"] == "invalid_request"


def test_an_error_in_the_middle_is_the_last_line(worker: Any) -> None:
    """As lines: an object with the problem under `error`."""
    answer = worker.post(COUNT, {"to": 3, "fail_at": 2}, headers={"accept": "application/x-ndjson"})
    assert json.loads(answer.body.splitlines()[-1])["error"]["code"] == "invalid_request"


def test_a_stream_is_billed_for_what_it_sent(worker: Any) -> None:
    """Three messages sent before the failure are three units; the status is the failure's."""
    key = worker.key(email="streams@example.org")
    worker.post(COUNT, {"to": 9, "fail_at": 4}, key=key)
    totals = worker.totals("streams@example.org")
    assert (totals.requests, totals.units, totals.errors) == (1, 3, 1)


def test_a_client_that_leaves_ends_the_stream(worker: Any) -> None:
    """The ticket is closed as cancelled and the permit given back."""
    key = worker.key(email="leaver@example.org")
    worker.post(COUNT, {"to": 1_000_000}, key=key, leave_after=3)
    totals = worker.totals("leaver@example.org")
    assert (totals.requests, totals.errors) == (1, 1)
    assert worker.app.entrance.gate.streams.taken == 0


def test_a_client_stream_is_answered_message_by_message(worker: Any) -> None:
    """Lines in, lines out, whatever the chunks."""
    body = [b'{"number": 1}\n{"num', b'ber": 2}\n\n', b'{"number": 3}']
    answer = worker.post(ADD, body=body, headers=NDJSON)
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line)["total"] for line in answer.body.splitlines()] == [1, 3, 6]


def test_a_bad_line_ends_a_client_stream(worker: Any) -> None:
    """The lines before it are answered."""
    answer = worker.post(ADD, body=b'{"number": 1}\n{"number": "x"}\n{"number": 3}\n', headers=NDJSON)
    first, last = (json.loads(line) for line in answer.body.splitlines())
    assert (first["total"], last["error"]["code"]) == (1, "invalid_request")


def test_a_bad_first_line_has_its_own_status(worker: Any) -> None:
    """Nothing was sent yet."""
    assert worker.post(ADD, body=b"rubbish\n", headers=NDJSON).status == 400


def test_an_endless_line_is_refused(worker: Any) -> None:
    """One line has a body's limit."""
    answer = worker.post(ADD, body=[b"1" * 2**20] * 11, headers=NDJSON)
    assert answer.status == 413


def test_bulk_embedding_streams(worker: Any) -> None:
    """Each line is a request of its own."""
    lines = b"".join(json.dumps({"texts": [f"text {i}", "x"]}).encode() + b"\n" for i in range(5))
    for cached in (False, True):
        answer = worker.post("/v1/text/embed-stream", body=lines, headers=NDJSON)
        rows = [json.loads(line) for line in answer.body.splitlines()]
        assert [len(row["embeddings"]) for row in rows] == [2] * 5
        assert rows[4]["items"][0]["cached"] is cached
