"""Logs and metrics."""

from __future__ import annotations

import asyncio
import io
import json

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


def test_every_metric_can_be_used_as_its_row_says() -> None:
    """Names are unique and the labels fit."""
    metrics = Metrics()
    for row in METRICS:
        for use in (metrics.counter, metrics.gauge, metrics.histogram):
            assert use(row.name, *row.labels) is not None
    assert len({row.name for row in METRICS}) == len(METRICS)
