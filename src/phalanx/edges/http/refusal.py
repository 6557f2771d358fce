"""What the server itself says, below the application: a whole HTTP/1.1 answer as bytes, after which it closes."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus

import msgspec

from phalanx.edges.http.problems import PROBLEM_JSON, problem_of
from phalanx.errors import PhalanxError

Headers = Iterable[tuple[bytes, bytes]]

_encode = msgspec.json.Encoder().encode


def problem_headers(error: PhalanxError, length: int) -> list[tuple[bytes, bytes]]:
    """Return the headers of a problem document of `length` bytes, the last answer of its connection."""
    headers = [
        (b"content-type", PROBLEM_JSON.encode()),
        (b"content-length", b"%d" % length),
        (b"connection", b"close"),
    ]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, -int(-error.retry_after_s // 1))))
    return headers


def problem_bytes(error: PhalanxError, request_id: str) -> bytes:
    """Return the canonical body of an error (RFC 9457)."""
    return _encode(problem_of(error, request_id))


def refusal(error: PhalanxError, request_id: str, headers: Headers = ()) -> bytes:
    """Return status line, `headers`, the problem's own headers and the problem document."""
    body = problem_bytes(error, request_id)
    status = HTTPStatus(error.row.http)
    lines = [b"HTTP/1.1 %d %s" % (status, status.phrase.encode())]
    lines += [b"%s: %s" % pair for pair in (*headers, *problem_headers(error, len(body)))]
    return b"\r\n".join([*lines, b"", body])
