"""Clients over raw connections that write down each call: when it was sent and when it was answered, if it was."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from chaos.record import Call

TIMEOUT_S = 20.0


class Address(Protocol):
    """A worker that may be restarted on another port, or be down."""

    name: str

    def where(self) -> tuple[str, int] | None:
        """Return host and port, or None while nobody listens."""
        ...


class Caller(NamedTuple):
    """Who calls: the text of a key or token, its id, and whom its calls are billed to."""

    text: str
    credential: str
    organisation: str


NOBODY = Caller("", "", "")


class Reply(NamedTuple):
    """What came back; status 0 is nothing. `keeps` says whether the connection stays open."""

    status: int
    body: bytes = b""
    keeps: bool = False

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The name of the failure, or nothing."""
        if self.status < 400:
            return ""
        try:
            said = self.json
        except ValueError:
            return ""
        return str(said.get("code") or said.get("error") or "") if isinstance(said, dict) else ""


NOTHING = Reply(0)


class Record:
    """The calls that ended and those under way. Request ids are unique within a process and a `prefix`.

    `lost_ports` are clients' ports whose connections were a killed process's: nothing more is sent on those.
    """

    def __init__(self, prefix: str) -> None:
        self.calls: list[Call] = []
        self._open: dict[str, tuple[str, int]] = {}
        self.lost_ports: set[int] = set()
        self.losses = 0
        self._ids = (f"{prefix}-{number:06d}" for number in itertools.count(1))

    def begin(self, worker: str, port: int) -> str:
        """Note that a call is sent now, from a port of its client, and return its request id."""
        request_id = next(self._ids)
        self._open[request_id] = (worker, port)
        return request_id

    def end(self, call: Call) -> None:
        """Note what became of a call."""
        del self._open[call.request_id]
        self.calls.append(call)

    def lose(self, ports: Iterable[int]) -> None:
        """Note the clients' ports of a process that was killed."""
        self.lost_ports.update(ports)
        self.losses += 1

    def in_flight(self, worker: str | None = None, ports: frozenset[int] | None = None) -> frozenset[str]:
        """Return the ids of the calls under way, in one worker or in all; with `ports` those sent from one of these."""
        return frozenset(
            name
            for name, (where, port) in self._open.items()
            if worker in (None, where) and (ports is None or port in ports)
        )


@dataclass(slots=True)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    where: tuple[str, int]

    @property
    def port(self) -> int:
        """The client's own port."""
        return int(self.writer.get_extra_info("sockname")[1])

    @property
    def is_open(self) -> bool:
        """Whether no end is known of. That of a process which was killed a moment ago may not be."""
        return not (self.reader.at_eof() or self.reader.exception() or self.writer.is_closing())


class Client:
    """One client, with one connection to each worker that it talks to. It sends one call at a time."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._connections: dict[str, _Connection] = {}

    async def ask(
        self,
        worker: Address,
        method: str,
        path: str,
        body: Any = None,
        *,
        caller: Caller,
        leave_after_s: float | None = None,
    ) -> Reply:
        """Send a call and return the answer. With `leave_after_s` the client is gone by then.

        Whoever cannot be reached gets no call: there is nothing to write down.
        """
        connection = await self._connect(worker)
        if connection is None:
            return NOTHING
        # From here to the end of the write nothing else runs, so whoever kills knows of every call that was sent.
        request_id, sent_at = self._record.begin(worker.name, connection.port), time.time()
        connection.writer.write(_encode(method, path, body, caller.text, request_id))
        reply, left = NOTHING, False
        try:
            async with asyncio.timeout(TIMEOUT_S if leave_after_s is None else leave_after_s):
                reply = await _read(connection.reader)
        except TimeoutError:
            left = leave_after_s is not None
        except (OSError, EOFError, ValueError):
            pass
        finally:
            self._record.end(
                Call(
                    request_id, worker.name, caller.credential, caller.organisation, sent_at, time.time(),
                    reply.status, reply.code, left,
                )
            )  # fmt: skip
            if not reply.keeps:
                self._drop(worker.name)
        return reply

    async def close(self) -> None:
        """Let go of all connections."""
        for name in list(self._connections):
            self._drop(name)
        # A transport closes its socket in the loop's next round.
        await asyncio.sleep(0)

    async def _connect(self, worker: Address) -> _Connection | None:
        where, known = worker.where(), self._connections.get(worker.name)
        if known is not None and known.where == where and known.is_open and known.port not in self._record.lost_ports:
            return known
        self._drop(worker.name)
        if where is None:
            return None
        losses = self._record.losses
        try:
            async with asyncio.timeout(TIMEOUT_S):
                reader, writer = await asyncio.open_connection(*where)
        except OSError:
            return None
        connection = self._connections[worker.name] = _Connection(reader, writer, where)
        if connection.port in self._record.lost_ports and self._record.losses != losses:
            # It was accepted by a process that was killed before it could be used.
            return await self._connect(worker)
        self._record.lost_ports.discard(connection.port)
        return connection

    def _drop(self, name: str) -> None:
        connection = self._connections.pop(name, None)
        if connection is not None:
            connection.writer.transport.abort()


def _encode(method: str, path: str, body: Any, credential: str, request_id: str) -> bytes:
    payload = b"" if body is None else json.dumps(body).encode()
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: chaos",
        f"X-Request-Id: {request_id}",
        f"Content-Length: {len(payload)}",
    ]
    if payload:
        lines.append("Content-Type: application/json")
    if credential:
        lines.append(f"Authorization: Bearer {credential}")
    return "\r\n".join([*lines, "", ""]).encode() + payload


async def _read(reader: asyncio.StreamReader) -> Reply:
    """Read one answer. Raises EOFError or OSError when it breaks off."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in head[1:] if line)
    body = await reader.readexactly(int(fields.get("content-length", 0)))
    return Reply(int(head[0].split(" ")[1]), body, fields.get("connection") != "close")
