"""What every edge says of a call: the canonical log line, and the times in its answer."""

from __future__ import annotations

import time
from typing import Any, Protocol

from phalanx.services.ticket import Call


class Exchanged(Protocol):
    """A call and its answer, as an edge has them at the end.

    `received_at` is `time.perf_counter`'s; `call` is None where the gate was never asked. `address` is the caller's own. `tag` is `ok`, or
    the code of the error.
    """

    request_id: str
    received_at: float
    address: str
    bytes_in: int
    bytes_out: int
    tag: str
    call: Call | None


def log_line(
    exchange: Exchanged,
    *,
    method: str,
    route: str | None,
    operation: str,
    dialect: str,
    status: int | str,
    peer: str = "",
) -> dict[str, Any]:
    """Return the fields of the canonical line: everything worth knowing of this call, once.

    `peer` is the address at the other end of the connection, where that is a proxy's.
    """
    line: dict[str, Any] = {
        "request_id": exchange.request_id,
        "method": method,
        "route": route,
        "operation": operation,
        "dialect": dialect,
        "status": status,
        "code": exchange.tag,
        "ms": round((time.perf_counter() - exchange.received_at) * 1e3, 3),
        "bytes_in": exchange.bytes_in,
        "bytes_out": exchange.bytes_out,
        "address": exchange.address,
    }
    if peer:
        line["peer"] = peer
    call = exchange.call
    if call is not None and call.caller is not None:
        line["organisation"], line["key_id"] = call.caller.organisation, call.caller.key_id
        if call.on_behalf_of:
            line["on_behalf_of"] = call.on_behalf_of
    meter = call.meter if call is not None else None
    if meter is not None:
        line |= {
            "tokens": meter.tokens,
            "items": meter.items,
            "cached": meter.cached,
            "model": meter.model,
            "queue_ms": round(meter.queue_s * 1e3, 3),
            "engine_ms": round(meter.engine_s * 1e3, 3),
        }
    return line


def server_timing(call: Call | None, received_at: float) -> str:
    """Return the value of Server-Timing (W3C): `queue`, `engine` and `total`, from `received_at` to now, in ms.

    The first two are zero where there was no queue and no engine.
    """
    total = f"total;dur={(time.perf_counter() - received_at) * 1e3:.3f}"
    meter = call.meter if call is not None else None
    queue_s, engine_s = (meter.queue_s, meter.engine_s) if meter is not None else (0.0, 0.0)
    return f"queue;dur={queue_s * 1e3:.3f}, engine;dur={engine_s * 1e3:.3f}, {total}"
