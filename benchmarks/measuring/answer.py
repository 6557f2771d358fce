"""What the clients read of an HTTP answer."""

from __future__ import annotations

import re
from typing import NamedTuple

NAN = float("nan")
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
RETRY_AFTER = re.compile(rb"\r\nretry-after: *(\d+)", re.IGNORECASE)
TIMING = re.compile(
    rb"\r\nserver-timing: *(?:queue;dur=([\d.]+), engine;dur=([\d.]+), )?total;dur=([\d.]+)", re.IGNORECASE
)
CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


class Answer(NamedTuple):
    """What is read off an answer."""

    status: int
    retry_after_s: float
    timing_ms: tuple[float, float, float]
    keeps: bool


def parse(data: bytes | bytearray) -> Answer | None:
    """Return the answer in `data` once it is whole."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    length = LENGTH.search(data, 0, end)
    if length is None or len(data) < end + 4 + int(length[1]):
        return None
    retry = RETRY_AFTER.search(data, 0, end)
    timing = TIMING.search(data, 0, end)
    times = tuple(float(part) if part else NAN for part in timing.groups()) if timing else (NAN, NAN, NAN)
    keeps = CLOSE.search(data, 0, end) is None
    return Answer(int(data[9:12]), float(retry[1]) if retry else NAN, (times[0], times[1], times[2]), keeps)
