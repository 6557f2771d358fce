"""One worker process as its supervisor sees it."""

from __future__ import annotations

import asyncio
import signal
import socket
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic

import msgspec

from phalanx.supervisor.messages import (
    Beat,
    Drain,
    Failed,
    Family,
    FromWorker,
    Report,
    ToWorker,
    frame,
    receive,
)
from phalanx.telemetry import Log

LAST_WORDS_S = 1.0
"""Seconds in which what a dead worker had sent is read."""


class WorkerProcess:
    """A worker in one of the supervisor's slots: `run` starts it and returns when it has ended.

    `command` is completed with the options by which a worker knows its slot, its line and its listening sockets. It is
    executed, in a session of its own so that Ctrl-C reaches only the supervisor. `on_change` is called at each sign
    of life, and with each change of state.
    """

    def __init__(
        self,
        slot: int,
        command: Sequence[str],
        listeners: Sequence[socket.socket],
        *,
        log: Log,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.slot = slot
        self.families: list[Family] = []
        self.ready = False
        self.accepting = False
        self.told: set[type[ToWorker]] = set()
        self.failure = ""
        self.became_ready = asyncio.Event()
        self.ended = asyncio.Event()
        self.started_at = self.heard_at = monotonic()
        self.killed_for = ""
        self._command = command
        self._listeners = listeners
        self._log = log
        self._on_change = on_change
        self._process: Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._unsent: list[ToWorker] = []
        self._status: int | None = None

    @property
    def pid(self) -> int | None:
        """The process's id, None before it has started."""
        return self._process.pid if self._process else None

    @property
    def state(self) -> str:
        """`starting`, `ready`, `unready` or `draining`."""
        if Drain in self.told:
            return "draining"
        if not self.became_ready.is_set():
            return "starting"
        return "ready" if self.ready else "unready"

    @property
    def ending(self) -> str:
        """How the process ended, in words."""
        if self.failure:
            return self.failure
        if self._status is None:
            return "it could not be started"
        if self._status < 0:
            with suppress(ValueError):
                return f"it was ended by {signal.Signals(-self._status).name}"
        return f"it ended with status {self._status}"

    async def run(self) -> None:
        """Start the process, hear it out, and reap it. Failing to start counts as an end; one told to drain is not started."""
        try:
            await self._start_and_hear_out()
        except OSError as error:
            self.failure = f"it could not be started: {error.strerror}"
        finally:
            self.accepting = self.ready = False
            if self._writer is not None:
                self._writer.close()
            self.ended.set()

    async def _start_and_hear_out(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            reader, self._writer = await asyncio.open_unix_connection(sock=ours)
            self._writer.writelines(map(frame, self._unsent))
            if Drain in self.told:
                return
            self._process = await self._execute(theirs)
        if self.killed_for:
            self.kill(self.killed_for)
        listening = asyncio.create_task(self._listen(reader))
        self._status = await self._process.wait()
        # A child that it left behind may hold the line open.
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_S):
                await listening

    def tell(self, message: ToWorker) -> None:
        """Tell the worker something; one that has ended does not mind."""
        self.told.add(type(message))
        if self._writer is None:
            self._unsent.append(message)
        elif not self._writer.is_closing():
            self._writer.write(frame(message))

    def kill(self, reason: str) -> None:
        """End the process at once."""
        self.killed_for = self.killed_for or reason
        if self._process is not None and not self.ended.is_set():
            with suppress(ProcessLookupError):
                self._process.kill()

    async def _execute(self, line: socket.socket) -> Process:
        fds = [listener.fileno() for listener in self._listeners]
        options = ["--worker", str(self.slot), "--lifeline", str(line.fileno())]
        options += [word for fd in fds for word in ("--listener", str(fd))]
        return await asyncio.create_subprocess_exec(
            *self._command, *options, stdin=DEVNULL, pass_fds=[line.fileno(), *fds], start_new_session=True
        )

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        decoder: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)
        try:
            while (message := await receive(reader, decoder)) is not None:
                self._hear(message)
        except ValueError as error:
            # It is not heard from again, so it is killed in time.
            self._log.error("worker not understood", slot=self.slot, pid=self.pid, reason=str(error))

    def _hear(self, message: FromWorker) -> None:
        match message:
            case Beat(ready, accepting):
                self.heard_at = monotonic()
                self.ready, self.accepting = ready, accepting
                if ready:
                    self.became_ready.set()
                self._on_change()
            case Report(families):
                self.families = families
            case Failed(reason):
                self.failure = reason
