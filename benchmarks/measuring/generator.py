"""The load generator's process: a `Load` on stdin, an `Outcome` on stdout.

One connection is driven by a blocking socket, which adds the least to what is timed; several by uvloop and a parser
that reads no more of an answer than it needs, so that one core of Python sends more than the worker can take.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import socket
import sys
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import msgspec
import uvloop

sys.path.insert(0, str(Path(__file__).parent.parent))

from measuring.answer import NAN, Answer, parse
from measuring.load import Load, Outcome

FAILED = Answer(0, NAN, (NAN, NAN, NAN), False)


class Record:
    """The answers so far."""

    def __init__(self, warm_up: int) -> None:
        self._skip = warm_up
        self._rows = array("d")
        self.started = time.perf_counter()

    def add(self, sent: float, done: float, answer: Answer) -> None:
        """Note an answer; what was sent during the warm-up does not count."""
        if self._skip:
            self._skip -= 1
            self.started = done
            return
        self._rows.extend((
            sent - self.started, (done - sent) * 1e3, answer.status, answer.retry_after_s, *answer.timing_ms,
        ))  # fmt: skip

    def outcome(self, cpu_s: float) -> Outcome:
        """Return the rows with the time since the warm-up."""
        return Outcome(answers=self._rows.tobytes(), elapsed_s=time.perf_counter() - self.started, cpu_s=cpu_s)


def requests(load: Load) -> Iterator[bytes]:
    """Return the requests, head and body in one piece."""
    fields = f"POST {load.path} HTTP/1.1\r\nHost: {load.host}:{load.port}\r\nContent-Type: {load.content_type}\r\n"
    if load.key:
        fields += f"Authorization: Bearer {load.key}\r\n"
    head = fields.encode() + b"Content-Length: %d\r\n\r\n%b"
    bodies = itertools.cycle(load.bodies) if load.repeat else iter(load.bodies)
    return (head % (len(body), body) for body in bodies)


def drive_one(load: Load, record: Record) -> None:
    """Send over one connection, one request after the other."""
    until = time.perf_counter() + load.seconds
    with socket.create_connection((load.host, load.port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for request in requests(load):
            sent = time.perf_counter()
            connection.sendall(request)
            data = connection.recv(65536)
            while (answer := parse(data)) is None:
                more = connection.recv(65536)
                if not more:
                    raise ConnectionError("the server closed the connection in the middle of an answer")
                data += more
            done = time.perf_counter()
            record.add(sent, done, answer)
            if done >= until:
                return


class Client(asyncio.Protocol):
    """One of many connections."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._transport: asyncio.Transport | None = None
        self._data = bytearray()
        self._sent = 0.0
        self._waiting = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where requests go."""
        self._transport = cast("asyncio.Transport", transport)

    def send(self) -> None:
        """Send the next request, or leave when there is none."""
        assert self._transport is not None
        request = self._crowd.take()
        if request is None:
            self._transport.close()
            self._crowd.leave()
            return
        self._waiting = True
        self._sent = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Note an answer once it is whole, and go on as it says."""
        self._data += data
        answer = parse(self._data)
        if answer is None:
            return
        self._data.clear()
        self._waiting = False
        self._crowd.record.add(self._sent, time.perf_counter(), answer)
        if not answer.keeps:
            self._reconnect_later(answer)
        elif self._crowd.patient and answer.retry_after_s > 0:
            self._crowd.loop.call_later(answer.retry_after_s, self.send)
        else:
            self.send()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note a request that will not be answered."""
        if self._waiting:
            self._waiting = False
            self._crowd.record.add(self._sent, time.perf_counter(), FAILED)
            self._crowd.leave()

    def _reconnect_later(self, answer: Answer) -> None:
        pause = answer.retry_after_s if self._crowd.patient and answer.retry_after_s > 0 else 0.0
        assert self._transport is not None
        self._transport.close()
        self._crowd.loop.call_later(pause, self._crowd.replace)


class Crowd:
    """All connections of a load and what they share."""

    def __init__(self, load: Load, record: Record) -> None:
        self.loop = asyncio.get_running_loop()
        self.record = record
        self.patient = load.patient
        self._load = load
        self._requests = requests(load)
        self._until = 0.0
        self._left = load.connections
        self._over = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Open all connections, then let each send; return when all have left."""
        clients = [await self._connect() for _ in range(self._load.connections)]
        self.record.started = time.perf_counter()
        self._until = self.record.started + self._load.seconds
        for client in clients:
            client.send()
        await self._over.wait()

    def take(self) -> bytes | None:
        """Return the next request, None when it is over."""
        return next(self._requests, None) if time.perf_counter() < self._until else None

    def leave(self) -> None:
        """Note that a connection has ended."""
        self._left -= 1
        if self._left == 0:
            self._over.set()

    def replace(self) -> None:
        """Open a connection in place of one that the server closed."""
        task = self.loop.create_task(self._begin_anew())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _begin_anew(self) -> None:
        if time.perf_counter() >= self._until:
            self.leave()
            return
        (await self._connect()).send()

    async def _connect(self) -> Client:
        _, client = await self.loop.create_connection(lambda: Client(self), self._load.host, self._load.port)
        return client


async def drive_many(load: Load, record: Record) -> None:
    """Send over several connections at once."""
    await Crowd(load, record).run()


def main() -> None:
    """Do what stdin says."""
    load = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Load)
    if load.cores:
        os.sched_setaffinity(0, load.cores)
    record = Record(load.warm_up)
    gc.collect()
    gc.disable()
    before = time.process_time()
    if load.connections == 1:
        drive_one(load, record)
    else:
        uvloop.run(drive_many(load, record))
    # sys.stdout.buffer may be unbuffered (PYTHONUNBUFFERED), and then writes no more than the pipe takes at once.
    with open(1, "wb") as out:
        out.write(msgspec.msgpack.encode(record.outcome(time.process_time() - before)))


if __name__ == "__main__":
    main()
