"""How a connection ends: refused, closed in order, or dropped because the peer does not read.

Closing a socket that holds unread bytes resets the connection, and the reset can overtake the answer (RFC
9112 §9.6). So while the peer may still be sending, only the sending side is shut, and what arrives is dropped
for a moment.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from time import perf_counter
from typing import cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from phalanx.edges.http.connections import Connections, Phase
from phalanx.edges.http.refusal import refusal
from phalanx.edges.http.security import NO_STORE
from phalanx.edges.request_id import request_id
from phalanx.errors import PhalanxError

LINGER_S = 5.0
"""Seconds during which a closed connection drops what its peer still sends; a peer has seen the answer by then."""


class Outlet:
    """The transport as uvicorn's request cycle sees it: its `close` is the connection's own."""

    __slots__ = ("close", "is_closing", "write")

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None], is_closing: Callable[[], bool]) -> None:
        self.write = transport.write
        self.close = close
        self.is_closing = is_closing


class ClosingProtocol(HttpToolsProtocol):
    """uvicorn's protocol with orderly ends. `deadline` and `write_deadline` are `time.perf_counter()` seconds."""

    # Slots keep the instance's dictionary small: with uvicorn's own names and these it would be past the size (30) up
    # to which Python keeps attributes fast.
    __slots__ = (
        "_begun_at", "_deferred", "_on_disconnect", "_phase", "_running", "_socket", "_unsent", "_unstarted",
        "deadline", "limits", "state", "write_deadline",
    )  # fmt: skip

    def __init__(self, config: Config, state: Connections, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(config, state, {}, loop)
        self.state = state
        self.limits = state.limits
        self.deadline = self.write_deadline = math.inf
        self._phase: Phase = "head"
        self._socket: asyncio.Transport = None  # type: ignore[assignment]  # until connection_made
        self._begun_at = 0.0
        self._unsent = 0
        self._deferred: bytes | None = None
        self._running: RequestResponseCycle | None = None
        self._unstarted: RequestResponseCycle | None = None
        self._on_disconnect: Callable[[], object] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Keep the transport, and show uvicorn's request cycles the outlet in its place."""
        super().connection_made(transport)
        self._socket = transport
        self.transport = cast("asyncio.Transport", Outlet(transport, self.close, self._is_closing))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever works for this connection that the peer is gone."""
        self._phase = "closing"
        super().connection_lost(exc)
        self.deadline = self.write_deadline = math.inf
        self.pipeline.clear()
        self._abandon()
        if not self.connections:
            self.state.all_closed.set()

    def pause_writing(self) -> None:
        """Watch a peer that reads slower than the application writes."""
        super().pause_writing()
        self._unsent = self._socket.get_write_buffer_size()
        self.write_deadline = perf_counter() + self.limits.write_timeout_s

    def resume_writing(self) -> None:
        """Leave a peer alone that has caught up."""
        super().resume_writing()
        self.write_deadline = math.inf

    def close(self) -> None:
        """Close once everything was sent; linger while the peer may still be sending."""
        if self._is_closing():
            return
        lingers = self._phase in ("head", "body", "stopped")
        self._phase = "closing"
        self._unsent = self._socket.get_write_buffer_size()
        self.deadline = perf_counter() + (LINGER_S if lingers else self.limits.write_timeout_s)
        if not lingers:
            self._socket.close()
            return
        self.flow.resume_reading()
        if self._socket.can_write_eof():
            self._socket.write_eof()

    def abort(self) -> None:
        """Drop the connection with whatever it still has to send."""
        self._socket.abort()

    def _is_closing(self) -> bool:
        return self._phase == "closing" or self._socket.is_closing()

    def _stop(self) -> None:
        self._phase = "stopped"
        self.deadline = math.inf

    def _listen(self, callback: Callable[[], object]) -> None:
        self._on_disconnect = callback

    def _abandon(self) -> None:
        """Tell the running request that nobody waits for its answer."""
        cycle, self._running, self._unstarted = self._running, None, None
        callback, self._on_disconnect = self._on_disconnect, None
        if cycle is None or cycle.response_complete:
            return
        cycle.disconnected = True
        cycle.message_event.set()
        if callback is not None:
            callback()

    def _expire_writing(self, now: float) -> None:
        """Drop a peer that does not read, or reads so slowly that it comes to the same."""
        unsent, window = self._socket.get_write_buffer_size(), self.limits.write_timeout_s
        if unsent and self._unsent - unsent >= window * self.limits.min_rate:
            self._unsent = unsent
            if self._phase == "closing":
                self.deadline = now + window
            else:
                self.write_deadline = now + window
            return
        if unsent:
            self.state.on_refused("stalled_reader")
            self.state.log.info("stalled reader", peer=self._peer(), unsent_bytes=unsent)
        self.abort()

    def _refuse(self, error: PhalanxError) -> None:
        """Answer what is being read with an error, after the answers owed before it, and close."""
        cycle = self.cycle if self._phase == "body" else None
        owed = self._running is not None and self._running is not cycle
        if cycle is not None and owed:
            self.pipeline.popleft()
        answer = b"" if cycle is not None and cycle.response_started else self._refusal(error)
        if owed:
            self._deferred = answer
            self._stop()
            return
        self._abandon()
        self._socket.write(answer)
        self.close()

    def _refusal(self, error: PhalanxError) -> bytes:
        name = self._request_id()
        self.state.on_refused(error.code)
        self.state.log.info(
            "refused", request_id=name, status=error.row.http, code=error.code, detail=error.detail,
            peer=self._peer(),
        )  # fmt: skip
        return refusal(error, name, [*self.state.default_headers, *self._identity(name)])

    def _identity(self, request_id: str) -> list[tuple[bytes, bytes]]:
        """Return the headers that every answer carries, whoever gives it."""
        total_ms = (perf_counter() - self._begun_at) * 1e3
        cors = self.state.cors
        return [
            (self.state.request_id_header, request_id.encode()),
            (b"server-timing", b"queue;dur=0.000, engine;dur=0.000, total;dur=%.3f" % total_ms),
            NO_STORE,
            *(cors.answer(self._sent(b"origin")) if cors is not None else ()),
        ]

    def _request_id(self) -> str:
        return request_id(self._sent(self.state.request_id_header))

    def _sent(self, name: bytes) -> bytes | None:
        """Return the value of a header of the request that is being read, as far as it was."""
        fields = self.scope["headers"] if self.scope is not None else ()
        return next((value for sent, value in fields if sent == name), None)

    def _peer(self) -> str:
        return self.client[0] if self.client else ""
