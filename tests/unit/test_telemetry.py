"""Logs and metrics."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import select
from typing import Any, Literal

import pytest

from phalanx.telemetry import FLUSH_S, METRICS, Metrics, RequestLog, configure_logs


def test_the_request_line_is_json_and_flushed_soon() -> None:
    """One write for many lines, a tenth of a second later at most."""

    class Counted(io.BytesIO):
        flushes = 0

        def flush(self) -> None:
            self.flushes += 1

    async def scenario() -> Counted:
        stream = Counted()
        log = RequestLog(configure_logs(stream=io.StringIO()), stream=stream)
        for number in range(3):
            log.write({"number": number, "text": "ü\n"})
        assert stream.flushes == 0
        await asyncio.sleep(FLUSH_S * 1.5)
        return stream

    stream = asyncio.run(scenario())
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["number"] for line in lines] == [0, 1, 2]
    assert {line["event"] for line in lines} == {"request"}
    assert lines[0]["timestamp"].endswith("Z")
    assert stream.flushes == 1


def test_without_a_stream_lines_go_through_the_log() -> None:
    """Then the level decides."""
    stream = io.StringIO()
    log = RequestLog(configure_logs(level="info", stream=stream))
    log.write({"number": 1})
    log.write({"number": 2}, debug=True)
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["number"] == 1


def test_fields_of_a_process_are_in_every_line() -> None:
    """In those of requests, of events, and of other libraries."""

    async def scenario() -> None:
        out, requests = io.StringIO(), io.BytesIO()
        fields = {"worker": "2/4"}
        log = configure_logs(stream=out, fields=fields)
        log.info("event")
        logging.getLogger("other").warning("careful")
        direct = RequestLog(log, stream=requests, fields=fields)
        direct.write({"number": 1})
        direct.flush()
        lines = [json.loads(line) for line in (*out.getvalue().splitlines(), requests.getvalue().decode())]
        assert [line["worker"] for line in lines] == ["2/4"] * 3

    asyncio.run(scenario())


def test_request_lines_are_written_whole() -> None:
    """What several workers write into one pipe stays apart as long as each write is whole lines that fit the pipe."""
    writes: list[bytes] = []

    class Pipe(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            writes.append(bytes(data))
            return len(data)

    async def scenario() -> None:
        stream = io.BufferedWriter(Pipe(), select.PIPE_BUF)
        log = RequestLog(configure_logs(stream=io.StringIO()), stream=stream)
        for number in range(200):
            log.write({"number": number, "text": "x" * (number % 90)})
        log.flush()

    asyncio.run(scenario())
    assert len(writes) > 2
    assert all(write.endswith(b"\n") and len(write) <= select.PIPE_BUF for write in writes)
    assert [json.loads(line)["number"] for line in b"".join(writes).splitlines()] == list(range(200))


def test_every_metric_can_be_used_as_its_row_says() -> None:
    """Names are unique and the labels fit."""
    metrics = Metrics()
    for row in METRICS:
        for use in (metrics.counter, metrics.gauge, metrics.histogram):
            assert use(row.name, *row.labels) is not None
    assert len({row.name for row in METRICS}) == len(METRICS)


@pytest.mark.parametrize("style", ["json", "console"])
def test_a_traceback_shows_no_local_variables(style: Literal["json", "console"]) -> None:
    """They hold what callers sent: bodies with passwords, headers with keys."""
    stream = io.StringIO()
    log = configure_logs(style=style, stream=stream)

    def fail(body: str) -> None:
        raise KeyError("a bug")

    try:
        fail("a " + "password")
    except KeyError as bug:
        log.error("bug", exc_info=bug)
    shown = stream.getvalue()
    assert "a bug" in shown
    assert "fail" in shown
    assert "a password" not in shown
