"""What the connections of one server share, and where each of them stands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from uvicorn.server import ServerState

from phalanx.edges.http.cors import Cors
from phalanx.telemetry import Log


@dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """What one connection may take. Times are in seconds, sizes in bytes."""

    read_timeout_s: float = 15.0
    """For a whole head, for a silence within a body, and the window in which a body must keep `min_rate`."""
    write_timeout_s: float = 30.0
    """The window in which a peer that lets answers pile up must keep `min_rate` as it reads."""
    idle_timeout_s: float = 120.0
    min_rate: float = 500.0
    """Bytes per second: the value that Apache's mod_reqtimeout ships with."""
    max_connections: int = 8192
    max_head_bytes: int = 32768
    max_head_fields: int = 100
    max_pipelined: int = 16
    """Requests that wait behind one that is being answered."""


class Connections(ServerState):
    """uvicorn's shared state and ours. `on_refused` is told the code of every refusal made below the application.

    With `cors`, pages that may call can read those refusals too.
    """

    def __init__(
        self,
        limits: ConnectionLimits,
        log: Log,
        request_id_header: str,
        on_refused: Callable[[str], None],
        cors: Cors | None = None,
    ) -> None:
        super().__init__()
        self.limits = limits
        self.log = log
        self.request_id_header = request_id_header.lower().encode()
        self.on_refused = on_refused
        self.cors = cors
        self.draining = False
        self.all_closed = asyncio.Event()
        self.default_head = b""

    def renew_headers(self, headers: list[tuple[bytes, bytes]]) -> None:
        """Set the headers of all answers, also in the form in which they are written."""
        self.default_headers = headers
        self.default_head = b"".join(b"%b: %b\r\n" % header for header in headers)


Phase = Literal["idle", "head", "body", "whole", "stopped", "closing"]
"""Where a connection stands with what it reads.

idle: between requests. head: waiting for a head; so is a connection that has sent nothing yet. body: within one.
whole: the newest request was read in full and is owed an answer. stopped: answers are owed, after which it closes;
nothing more is parsed. closing: no more is sent than is in the buffers; what arrives is dropped.

Strings and no enum: a member costs 0.1 µs to look up in Python 3.11, and a request looks at ten.
"""
