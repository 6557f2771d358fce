"""The HTTP server: uvicorn's parser and serialiser under our protocol, our listeners and our way to stop."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from email.utils import formatdate
from pathlib import Path
from time import perf_counter, time
from typing import Any, NamedTuple, Protocol, cast

from uvicorn.config import Config

from phalanx.edges.http.connections import ConnectionLimits, Connections
from phalanx.edges.http.cors import Cors
from phalanx.edges.http.protocol import Connection
from phalanx.edges.http.security import SECURITY_HEADERS
from phalanx.edges.listeners import BACKLOG, CannotListen, bind, make_room
from phalanx.signals import on_signal, restore_signals
from phalanx.telemetry import Log

Application = Callable[[Any, Any, Any], Awaitable[None]]
"""ASGI 3: scope, receive, send."""

CANCELLED_S = 2.0
"""Seconds that cancelled calls are given to clean up, before their connections are dropped."""


class Beside(Protocol):
    """A server of another protocol that starts, drains and hurries with this one."""

    async def start(self) -> None:
        """Begin to accept. Raises `CannotListen`."""
        ...

    async def drain(self, *, at_once: bool = False) -> None:
        """Stop in order."""
        ...

    def hurry(self) -> None:
        """Give up waiting."""
        ...


class TlsFiles(NamedTuple):
    """PEM files: the certificate chain and its private key."""

    certificate: Path
    key: Path


class HttpServer:
    """Serves one ASGI application. `bind` and `start` (or `serve_forever`), then `drain`; once each.

    `port` 0 takes a free one; `setting` is the variable named when it is taken. `sockets`, if given, are
    listened on in place of `host` and `port`. Durations are in seconds. `on_draining` is called as a stop
    begins, while the listeners still accept: this is when `/readyz` turns false. After `drain_delay_s` they
    close; calls under way are given `drain_timeout_s`, then cancelled. `on_refused` is told the code of each
    refusal that the application never saw; `cors` says which pages may read one.
    """

    def __init__(
        self,
        app: Application,
        *,
        host: str,
        port: int,
        log: Log,
        limits: ConnectionLimits | None = None,
        tls: TlsFiles | None = None,
        drain_delay_s: float = 0.0,
        drain_timeout_s: float = 30.0,
        on_draining: Callable[[], None] = lambda: None,
        on_refused: Callable[[str], None] = lambda code: None,
        request_id_header: str = "X-Request-Id",
        cors: Cors | None = None,
        sockets: Sequence[socket.socket] = (),
        setting: str = "PORT",
    ) -> None:
        self._host, self._port, self._setting = host, port, setting
        self._limits = limits or ConnectionLimits()
        self._log = log
        self._tls = tls
        self._drain_delay_s = drain_delay_s
        self._drain_timeout_s = drain_timeout_s
        self._on_draining = on_draining
        self._sockets = list(sockets)
        self._bound_port: int | None = None
        self._listeners: list[asyncio.Server] = []
        self._state = Connections(self._limits, log, request_id_header, on_refused, cors)
        # The logs are ours, and so is the trust in proxies' headers.
        self._config = Config(
            cast("Any", app), http="httptools", ws="none", lifespan="off", interface="asgi3", log_config=None,
            log_level="warning", access_log=False, proxy_headers=False,
        )  # fmt: skip
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._hurry = asyncio.Event()

    @property
    def port(self) -> int:
        """The port that is bound, or was. Raises `RuntimeError` before `bind`."""
        if self._bound_port is None:
            raise RuntimeError("the port is known once bind() was called")
        return self._bound_port

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._state.connections)

    def bind(self) -> None:
        """Bind the port; connections queue in the kernel until `start`. Raises `CannotListen`."""
        if not self._sockets:
            self._sockets = bind(self._host, self._port, setting=self._setting)
        self._bound_port = int(self._sockets[0].getsockname()[1])

    async def start(self) -> None:
        """Begin to accept. Raises `CannotListen`, also when a TLS file cannot be used."""
        context = tls_context(self._tls) if self._tls else None
        self.bind()
        handshake_s = self._limits.read_timeout_s if context else None
        self._config.load()
        room = make_room(self._limits.max_connections)
        if room < self._limits.max_connections:
            self._log.warning("few_open_files", connections=room, wanted=self._limits.max_connections)
            self._state.limits = dataclasses.replace(self._limits, max_connections=room)
        self._sweep()
        loop = asyncio.get_running_loop()
        for listener in self._sockets:
            server = await loop.create_server(
                lambda: Connection(self._config, self._state, loop),
                sock=listener, ssl=context, ssl_handshake_timeout=handshake_s, backlog=BACKLOG,
            )  # fmt: skip
            self._listeners.append(server)

    async def serve_forever(self, beside: Sequence[Beside] = (), *, keeps_signals: bool = False) -> None:
        """Start, wait for SIGTERM or SIGINT, drain and return. A second signal ends the draining at once.

        What is `beside` is started and stopped along with it. With `keeps_signals` further signals mean nothing once it is
        drained, so that the stores can be closed; else they have their defaults back.
        """
        asked = asyncio.Event()

        def ask() -> None:
            if asked.is_set():
                for server in (self, *beside):
                    server.hurry()
            asked.set()

        servers: list[Beside] = [self, *beside]
        on_signal(ask)
        try:
            for server in servers:
                await server.start()
            await asked.wait()
            await asyncio.gather(*(server.drain() for server in servers))
        finally:
            if not keeps_signals:
                restore_signals()

    def hurry(self) -> None:
        """Have a drain under way, or the next one, give up waiting."""
        self._hurry.set()

    async def drain(self, *, at_once: bool = False) -> None:
        """Stop in order: say so, wait, close the listeners, let calls finish, cancel the rest, drop what is left.

        `at_once` leaves out the first wait: other processes go on accepting on the same sockets, or nobody watches.
        """
        self._state.draining = True
        self._on_draining()
        delay_s = 0.0 if at_once else self._drain_delay_s
        self._log.info("draining", delay_s=delay_s, connections=self.connections)
        await self._unless_hurried(asyncio.sleep(delay_s), None)
        for listener in self._listeners:
            listener.close()
        for bound in self._sockets:
            bound.close()
        for connection in self._open():
            connection.shutdown()
        await self._unless_hurried(self._finished(), self._drain_timeout_s)
        await self._cut_off()
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        self._log.info("drained", requests=self._state.total_requests)

    async def _unless_hurried(self, work: Coroutine[Any, Any, None], timeout_s: float | None) -> None:
        tasks = {asyncio.ensure_future(work), asyncio.ensure_future(self._hurry.wait())}
        await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()

    async def _finished(self) -> None:
        state = self._state
        while state.tasks or state.connections:
            if state.tasks:
                await asyncio.wait(set(state.tasks))
            else:
                state.all_closed.clear()
                await state.all_closed.wait()

    async def _cut_off(self) -> None:
        """Cancel what runs; each call's peer is told, if it can be. Then drop what is still open."""
        for task in (unfinished := set(self._state.tasks)):
            task.cancel()
        if unfinished:
            self._log.warning("calls cancelled", calls=len(unfinished))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CANCELLED_S):
                    await self._finished()
        for connection in self._open():
            connection.abort()
        await asyncio.sleep(0)

    def _open(self) -> list[Connection]:
        return cast("list[Connection]", list(self._state.connections))

    def _sweep(self) -> None:
        """Look at every connection's deadlines, and renew the headers of all answers, about once a second."""
        limits = self._limits
        shortest = min(limits.read_timeout_s, limits.write_timeout_s, limits.idle_timeout_s)
        self._sweep_timer = asyncio.get_running_loop().call_later(min(1.0, shortest / 4), self._sweep)
        self._state.renew_headers([(b"date", formatdate(time(), usegmt=True).encode()), *SECURITY_HEADERS])
        now = perf_counter()
        for connection in self._open():
            if connection.deadline <= now or connection.write_deadline <= now:
                connection.expire(now)


def tls_context(files: TlsFiles) -> ssl.SSLContext:
    """Return a server's context for TLS 1.2 or later and HTTP/1.1. Raises `CannotListen`."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(files.certificate, files.key)
    except (OSError, ssl.SSLError) as unusable:
        raise CannotListen(
            f"TLS_CERT_FILE {files.certificate} and TLS_KEY_FILE {files.key} cannot be used ({unusable}); set them to a "
            "certificate chain and its unencrypted private key, both PEM."
        ) from unusable
    return context
