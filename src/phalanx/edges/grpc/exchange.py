"""One call over gRPC: who sent it, what it asked for, what is said at its end."""

from __future__ import annotations

import functools
import time
from typing import Any
from urllib.parse import unquote

from phalanx.edges.call_facts import log_line
from phalanx.edges.credentials import credential_of
from phalanx.edges.fields import fold
from phalanx.edges.grpc.status import Metadata, call_metadata
from phalanx.edges.request_id import request_id
from phalanx.errors import DeadlineExceeded, InvalidRequest
from phalanx.operations import Operation
from phalanx.services.ticket import Call

MAX_IDEMPOTENCY_KEY_CHARS = 255
ON_BEHALF_OF = "x-on-behalf-of"
"""Of a worker that has its calls run by this one: for which organisation of its own. Percent-encoded; for the log, and so
that its callers do not share what is cached."""
MAX_BEHALF_CHARS = 512
EMPTY = "x-empty"
"""To such a worker: the paths of lists in the answer that are there, though empty."""


class Exchange:
    """A call under way: `context` is grpc.aio's, `call` what the gate sees of it once `open_call` was."""

    __slots__ = (
        "address", "bytes_in", "bytes_out", "call", "context", "empty", "id_name", "operation", "received_at", "request_id",
        "sent", "status", "tag",
    )  # fmt: skip

    def __init__(self, context: Any, operation: Operation, id_name: str) -> None:
        self.received_at = time.perf_counter()
        self.context = context
        self.operation = operation
        self.id_name = id_name
        fields = [
            (name.encode(), value if isinstance(value, bytes) else value.encode("utf-8", "replace"))
            for name, value in context.invocation_metadata()
        ]
        self.sent = dict(fields)
        if len(self.sent) != len(fields):
            # The first of what was sent twice names the call until `open_call` has looked at it.
            self.sent = {}
            for name, value in fields:
                self.sent.setdefault(name, value)
            self.sent[_REPEATED] = b""
        self.request_id = request_id(self.sent.get(id_name.encode()))
        self.address = address_of(context.peer())
        self.call: Call | None = None
        self.status = "CANCELLED"
        self.tag = "ok"
        self.bytes_in = self.bytes_out = 0
        self.empty: list[str] = []

    def open_call(self) -> Call:
        """Return the call as the gate is to see it. Raises `Unauthenticated`, `InvalidRequest` and `DeadlineExceeded`."""
        if self.sent.pop(_REPEATED, None) is not None:
            fold((name.encode(), b"") for name, _ in self.context.invocation_metadata())
        call = Call(credential_of(self.sent, self.address), self.request_id)
        key = self.sent.get(b"idempotency-key")
        if key is not None and self.operation.method == "POST":
            if not 0 < len(key) <= MAX_IDEMPOTENCY_KEY_CHARS or not key.isascii():
                raise InvalidRequest(f"idempotency-key must have 1 to {MAX_IDEMPOTENCY_KEY_CHARS} ASCII characters")
            call.idempotency_key = key.decode()
        behalf = self.sent.get(ON_BEHALF_OF.encode(), b"")
        if len(behalf) > MAX_BEHALF_CHARS or not behalf.isascii():
            raise InvalidRequest(f"{ON_BEHALF_OF} must have up to {MAX_BEHALF_CHARS} ASCII characters")
        call.on_behalf_of = unquote(behalf.decode())
        left = self.context.time_remaining()
        if left is not None:
            if left <= 0:
                raise DeadlineExceeded("the call's own deadline had passed when it arrived")
            call.deadline = time.monotonic() + left
        self.call = call
        return call

    def metadata(self) -> Metadata:
        """Return the trailing metadata as of now."""
        found = call_metadata(self.call, self.id_name, self.request_id, self.received_at)
        if self.empty:
            found.append((EMPTY, ",".join(self.empty)))
        return tuple(found)

    def log_line(self) -> dict[str, Any]:
        """Return the fields of the canonical line, under the names that they have for HTTP."""
        return log_line(
            self,
            method="gRPC",
            route=self.operation.grpc,
            operation=self.operation.name,
            dialect="grpc",
            status=self.status,
        )


_REPEATED = b" repeated"


@functools.lru_cache(4096)
def address_of(peer: str) -> str:
    """Return the address in what gRPC calls a peer, `ipv4:192.0.2.7:1234`, `ipv6:%5B2001:db8::1%5D:1234`; empty without one."""
    kind, _, rest = unquote(peer).partition(":")
    if kind not in ("ipv4", "ipv6"):
        return ""
    return rest.rpartition(":")[0].strip("[]")
