"""One HTTP/1.1 connection: uvicorn's protocol with deadlines, limits and eager starts.

uvicorn parses and serialises. What it lacks is added at the methods that asyncio and httptools call, and at
`_start_asgi_task` and `on_response_complete`, where it starts the application and learns that it answered:

* **Deadlines.** A connection carries the times `deadline` and `write_deadline`; the server compares them with
  the clock about once a second and calls `expire`. No timer is made per request or per chunk.
* **Limits** of a head's bytes and fields, of requests sent ahead of their answers, of open connections.
* **Eager starts**: a request is looked at as soon as it was read. See `eager`.
* **Orderly ends.** See `closing`.
* **Upgrades are ignored**, as RFC 9110 §7.8 allows. llhttp parts a request that offers one from its body (Java's
  client offers `h2c` with each first request), so such a head is parsed again without the offer.

The application finds in `scope["extensions"]["phalanx"]`: `received_at`, the `time.perf_counter()` at which the
first byte of the request was read, and `on_disconnect(callback)`, which has `callback()` called if the peer
leaves first, and `answer_at_once(status, fields, body)`. Setting `cancelled_on_disconnect` has the request's task cancelled then, which spares asking for that task.
A peer that shuts its sending side counts as one that leaves: a socket cannot tell the two apart.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from time import perf_counter

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from phalanx.edges.fields import Field
from phalanx.edges.http.closing import ClosingProtocol
from phalanx.edges.http.connections import Connections
from phalanx.edges.http.eager import start_eagerly
from phalanx.edges.http.pace import Pace
from phalanx.edges.http.refusal import problem_bytes, problem_headers
from phalanx.errors import (
    HeadTooLarge,
    Internal,
    InvalidRequest,
    Overloaded,
    PhalanxError,
    RequestTimeout,
    Unavailable,
)

DROPPED_BYTES = 65536
"""Bytes of a body that are read and dropped after its answer, so that the connection can be kept."""
NEWCOMER_S = 1.0
"""Seconds that a connection without a request is given once the listeners are closed: one may be on the way."""
RETRY_S = 1.0
NO_FIELDS: deque[tuple[bytes, bytes]] = deque(maxlen=0)
"""Takes fields and keeps none."""


class Connection(ClosingProtocol):
    """See the module. Made by the server, one for each accepted socket."""

    __slots__ = (
        "_chunk_size", "_dropped", "_fault", "_feeding", "_held", "_most", "_overhead", "_pace", "_read_at", "_upgrading",
        "_watched",
    )  # fmt: skip

    def __init__(self, config: Config, state: Connections, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(config, state, loop)
        self._most = self.limits.max_head_bytes
        self._pace = Pace(self.limits.read_timeout_s, self.limits.min_rate)
        # The peer had reason to wait within the window: for us to read on, or for 100 Continue.
        self._held = False
        self._read_at = 0.0
        self._chunk_size = 0
        # Bytes since the head began or since a byte of the body came: a head, chunk sizes, or trailers.
        self._overhead = 0
        self._dropped = 0
        self._watched: RequestResponseCycle | None = None
        self._upgrading = False
        self._feeding = False
        self._fault: PhalanxError | None = None

    # Called by the transport.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, or refuse it: with an answer, or without one when refused ones pile up too."""
        super().connection_made(transport)
        self._read_at = self._begun_at = perf_counter()
        self.deadline = self._read_at + self.limits.read_timeout_s
        most = self.limits.max_connections
        if len(self.connections) > most + most // 4:
            self.abort()
        elif len(self.connections) > most:
            detail = f"The worker has {most} open connections, as many as it may."
            self._refuse(Overloaded(detail, retry_after_s=RETRY_S))

    def data_received(self, data: bytes) -> None:
        """Parse what arrived, then start the request whose head it completed."""
        if self._phase in ("closing", "stopped"):
            return
        self._read_at = perf_counter()
        self._chunk_size = len(data)
        self._overhead += self._chunk_size
        self._feeding = True
        try:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                self._feed_without_upgrade(data, upgrade)
            if self._phase == "body":
                self._watch_body()
            if self._overhead > self._most:
                self._check_volume()
        except httptools.HttpParserError as malformed:
            # A full queue stops the parser the same way, but is no fault of what was read before.
            if not self._is_stopped():
                self._refuse(self._fault or _malformed(malformed))
        except PhalanxError as fault:
            self._refuse(fault)
        self._feeding = False
        cycle, self._unstarted = self._unstarted, None
        if cycle is not None:
            self._launch(cycle)

    # Called by the parser.

    def on_message_begin(self) -> None:
        """Begin a head, unless too many requests wait already: those are answered, then the connection closes.

        A client repeats what was not answered on another connection (RFC 9112 §9.3.2).
        """
        if len(self.pipeline) >= self.limits.max_pipelined:
            self.pipeline[0][0].keep_alive = False
            self._stop()
            raise OverflowError
        super().on_message_begin()
        self._begun_at = self._read_at
        self._overhead = self._chunk_size
        self._phase = "head"
        self.deadline = self._read_at + self.limits.read_timeout_s
        own: dict[object, object] = {
            "received_at": self._begun_at, "on_disconnect": self._listen, "answer_at_once": self._answer_at_once,
        }  # fmt: skip
        self.scope["extensions"] = {"phalanx": own}

    def on_headers_complete(self) -> None:
        """Check a head, and start its request unless it is to be parsed again without an upgrade."""
        if self._overhead > self._most or len(self.headers) > self.limits.max_head_fields:
            self._check_head()
        self._upgrading = self.parser.should_upgrade()
        if self._upgrading:
            return
        super().on_headers_complete()
        # Trailers would be appended to the headers that the application was given.
        self.headers = NO_FIELDS  # type: ignore[assignment]
        self._phase = "body"
        if self.state.draining:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Hand on a piece of a body."""
        self._overhead = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Lift the deadline of reading: now it is our turn."""
        if self._upgrading:
            return
        super().on_message_complete()
        if self._running is None:
            self._rest()
        else:
            self._phase = "whole"
            self.deadline = math.inf

    # Called by uvicorn.

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        if self._feeding:
            # The parser is at the end of the head; the body may be in the same bytes.
            self._unstarted = cycle
        else:
            self._launch(cycle)

    def on_response_complete(self) -> None:
        """Start the next request in the queue, close, or wait for another. uvicorn would make a timer here."""
        self.state.total_requests += 1
        self._running = self._on_disconnect = None
        if self._is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._deferred is not None:
            self._socket.write(self._deferred)
            self.close()
        elif self._phase == "whole":
            self._rest()

    # Called by the server.

    def shutdown(self) -> None:
        """Close now if idle, else after the answers owed, which say so where they have not begun."""
        if self._phase == "idle":
            self.close()
        elif self.cycle is not None:
            self.cycle.keep_alive = False
        elif self._is_silent():
            self.deadline = min(self.deadline, perf_counter() + NEWCOMER_S)

    def expire(self, now: float) -> None:
        """Act on a deadline that has passed; `now` by `time.perf_counter()`."""
        if self._phase == "closing" or now >= self.write_deadline:
            self._expire_writing(now)
        elif self.state.draining and self._is_silent():
            self.abort()
        elif self._phase == "head":
            allowed = self.limits.read_timeout_s
            self._refuse(RequestTimeout(f"The head of the request did not arrive within {allowed:g} s."))
        elif self._phase == "body":
            self._expire_body(now)
        else:
            self.close()

    def _expire_body(self, now: float) -> None:
        if self._held:
            self._held = self.flow.read_paused or self.cycle.waiting_for_100_continue
            self._read_at = now
            self.deadline = self._pace.start(now)
            return
        later = self._pace.judge(now, self._read_at)
        if later is not None:
            self.deadline = later
            return
        rule = f"a silence of less than {self.limits.read_timeout_s:g} s, and {self.limits.min_rate:g} bytes/s"
        self._refuse(RequestTimeout(f"The body of the request came too slowly; due are {rule}."))

    # What was read.

    def _is_silent(self) -> bool:
        return self.cycle is None and self._overhead == 0

    def _is_stopped(self) -> bool:
        return self._phase == "stopped"

    def _rest(self) -> None:
        self._phase = "idle"
        self._overhead = 0
        self.deadline = perf_counter() + self.limits.idle_timeout_s

    def _feed_without_upgrade(self, data: bytes, upgrade: httptools.HttpParserUpgrade | None) -> None:
        while upgrade is not None:
            data = self._head_without_upgrade() + data[upgrade.args[0] :]
            upgrade = None
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as another:
                upgrade = another

    def _head_without_upgrade(self) -> bytes:
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        if method == b"CONNECT":
            raise InvalidRequest("CONNECT is not served here: this is not a proxy.")
        kept = [b"%s: %s\r\n" % field for field in self.headers if field[0] != b"upgrade"]
        return b"%s %s HTTP/%s\r\n%s\r\n" % (method, self.url, version, b"".join(kept))

    def _check_head(self) -> None:
        most, fields = self._most, self.limits.max_head_fields
        if len(self.headers) > fields:
            self._fault = HeadTooLarge(f"The request has {len(self.headers)} header fields; {fields} are allowed.")
            raise self._fault
        if self._overhead > most:
            # What arrived may hold more than the head, so the head is measured; few are so large that it must be.
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > most:
                self._fault = HeadTooLarge(f"The head of the request has {size} bytes; {most} are allowed.")
                raise self._fault

    def _check_volume(self) -> None:
        """Bound what the parser keeps to itself: a field without end."""
        if self._phase in ("head", "body"):
            most = self._most
            raise HeadTooLarge(f"The head or the trailers of the request have over {most} bytes; {most} are allowed.")

    def _watch_body(self) -> None:
        """Time a body that did not come with its head; drop it, within bounds, if the answer was given without it."""
        cycle = self.cycle
        if self._watched is not cycle:
            self._watched = cycle
            self._dropped = 0
            self._held = cycle.waiting_for_100_continue
            self.deadline = self._pace.start(self._read_at)
        self._pace.move(self._chunk_size)
        self._held = self._held or self.flow.read_paused
        if cycle.response_complete:
            self._dropped += self._chunk_size
            if self._dropped > DROPPED_BYTES:
                self.close()

    # What the application does with it.

    def _answer_at_once(self, status: int, fields: list[Field], body: bytes) -> bool:
        """Send a whole answer in one piece. Returns False, and does nothing, where the ordinary way is needed.

        uvicorn looks at each name and value by two regular expressions, which took a sixth of a cached answer's time.
        The fields are the application's own, in lower case, with a Content-Length; that none breaks its line is seen
        from the number of lines.
        """
        cycle = self._running
        if cycle is None or cycle.response_started or cycle.disconnected or self.flow.write_paused:
            return False
        head = b"".join([b"%b: %b\r\n" % field for field in fields])
        if head.count(b"\n") != len(fields) or head.count(b"\r") != len(fields) or b"\0" in head:
            return False
        if not cycle.keep_alive or b"connection: " in head:
            return False
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        self._socket.write(b"".join((STATUS_LINE[status], self.state.default_head, head, b"\r\n", body)))
        cycle.message_event.set()
        cycle.on_response()
        return True

    def _launch(self, cycle: RequestResponseCycle) -> None:
        task = start_eagerly(self.loop, self._answer(cycle))
        if not task.done():
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
            if self._running is cycle and "cancelled_on_disconnect" in cycle.scope["extensions"]["phalanx"]:
                self._listen(task.cancel)

    async def _answer(self, cycle: RequestResponseCycle) -> None:
        """Run the application, in place of uvicorn's `run_asgi`, which words a failure as plain text."""
        error: PhalanxError | None = None
        try:
            await self.app(cycle.scope, cycle.receive, cycle.send)
        except asyncio.CancelledError:
            error = Unavailable("The worker is shutting down; send the request again.", retry_after_s=RETRY_S)
        except Exception as bug:
            # Once an answer has begun, an exception is the application's way to break it off.
            if not (cycle.response_started or cycle.disconnected):
                self.state.log.error("bug", path=cycle.scope["path"], exc_info=bug)
        if not (cycle.response_complete or cycle.disconnected):
            await self._make_up(cycle, error or Internal())
        cycle.on_response = _nothing

    async def _make_up(self, cycle: RequestResponseCycle, error: PhalanxError) -> None:
        """Answer in the application's place, or, where it has begun, show that the rest is missing."""
        if cycle.response_started:
            self.close()
            return
        name = self._request_id()
        body = problem_bytes(error, name)
        headers = [*self._identity(name), *problem_headers(error, len(body))]
        await cycle.send({"type": "http.response.start", "status": error.row.http, "headers": headers})
        await cycle.send({"type": "http.response.body", "body": body, "more_body": False})


def _malformed(error: httptools.HttpParserError) -> PhalanxError:
    if isinstance(error, httptools.HttpParserCallbackError):
        return InvalidRequest("The target of the request is not a path that can be read.")
    return InvalidRequest(f"This is not HTTP/1.1: {error}.")


def _nothing() -> None:
    """Take the place of a finished cycle's callback, which would keep the cycle and its connection alive."""
