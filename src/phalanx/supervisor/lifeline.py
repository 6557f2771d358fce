"""A worker's end of the line to its supervisor."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import msgspec

from phalanx.signals import on_signal
from phalanx.supervisor.messages import (
    Accept,
    Beat,
    Drain,
    Failed,
    Family,
    FromWorker,
    Hurry,
    Report,
    ToWorker,
    frame,
    receive,
)
from phalanx.telemetry import Log

BEAT_S = 1.0
"""Seconds between two signs of life."""
LAST_WORDS_S = 1.0
"""Seconds that the supervisor is given to take what a worker sends last."""

Snapshot = Callable[[], list[Family]]


class Lifeline:
    """Tells the supervisor about once a second that the event loop turns, and hears what it wants.

    A supervisor that is gone, SIGTERM and SIGINT all mean that the worker is to drain. Of several of them the first
    counts: a terminal or systemd sends the signal to the workers besides what their supervisor tells them.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, log: Log) -> None:
        self._reader, self._writer, self._log = reader, writer, log
        self._state = Beat(ready=False, accepting=False)
        self._may_accept = asyncio.Event()
        self._draining = asyncio.Event()
        self._how = Drain()
        self._hurried = False
        self._hurry: Callable[[], None] = lambda: None
        self._snapshot: Snapshot | None = None

    def update(self, *, ready: bool | None = None, accepting: bool | None = None) -> None:
        """Say whether the worker can serve now, and whether it accepts connections. Both begin as false."""
        state = msgspec.structs.replace(
            self._state,
            ready=self._state.ready if ready is None else ready,
            accepting=self._state.accepting if accepting is None else accepting,
        )
        if state != self._state:
            self._state = state
            self._send(state)
        if state.ready:
            self._may_accept.set()

    def report(self, snapshot: Snapshot) -> None:
        """Have the supervisor get what `snapshot` returns about once a second. It is called in a thread."""
        self._snapshot = snapshot

    def fail(self, reason: str) -> None:
        """Tell the supervisor why the worker ends, in one sentence that may be logged."""
        self._send(Failed(reason), must=True)

    def drain(self, how: Drain) -> None:
        """Make the worker drain, unless it does already."""
        if not self._draining.is_set():
            self._how = how
            self._draining.set()
            self._may_accept.set()

    def on_hurry(self, hurry: Callable[[], None]) -> None:
        """Set what is called when the worker is to wait for nothing more; at once, if it is so already."""
        self._hurry = hurry
        if self._hurried:
            hurry()

    async def until_accepting(self) -> bool:
        """Wait until the worker is to accept connections, as it is ready or told to; false when it is to drain instead."""
        await self._may_accept.wait()
        return not self._draining.is_set()

    async def until_draining(self) -> Drain:
        """Wait until the worker is to drain, and return how."""
        await self._draining.wait()
        return self._how

    async def listen(self) -> None:
        """Hear what the supervisor wants, until it is gone."""
        decoder: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
        try:
            while (message := await receive(self._reader, decoder)) is not None:
                match message:
                    case Accept():
                        self._may_accept.set()
                    case Drain():
                        self.drain(message)
                    case Hurry():
                        self._hurried = True
                        self._hurry()
        finally:
            # Another supervisor can have the port only once nobody holds its socket.
            self.drain(Drain(at_once=True))

    async def beat(self) -> None:
        """Send signs of life until cancelled."""
        while True:
            self._send(self._state)
            await asyncio.sleep(BEAT_S)

    async def send_reports(self) -> None:
        """Send the metrics until cancelled. They are collected in a thread, since that takes milliseconds."""
        while True:
            await asyncio.sleep(BEAT_S)
            if (families := await asyncio.to_thread(self._collect)) is not None:
                self._send(Report(families))

    async def close(self) -> None:
        """Send what was counted last, and hang up."""
        if (families := self._collect()) is not None:
            self._send(Report(families), must=True)
        self._writer.close()
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(LAST_WORDS_S):
                await self._writer.wait_closed()

    def _collect(self) -> list[Family] | None:
        try:
            return self._snapshot() if self._snapshot else None
        except Exception:
            self._log.exception("metrics not collected")
            return None

    def _send(self, message: FromWorker, *, must: bool = False) -> None:
        if self._writer.is_closing():
            return
        # A supervisor that does not read is stopped or stuck; what waits for it must not grow.
        if must or self._writer.transport.get_write_buffer_size() == 0:
            self._writer.write(frame(message))


@asynccontextmanager
async def open_lifeline(fd: int, *, log: Log) -> AsyncIterator[Lifeline]:
    """Take up the line that the supervisor left at a file descriptor; signs of life are sent until the end."""
    line = socket.socket(fileno=fd)
    line.set_inheritable(False)
    lifeline = Lifeline(*await asyncio.open_unix_connection(sock=line), log=log)
    on_signal(lambda: lifeline.drain(Drain()))
    tasks = [asyncio.create_task(work) for work in (lifeline.listen(), lifeline.beat(), lifeline.send_reports())]
    try:
        yield lifeline
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await lifeline.close()
