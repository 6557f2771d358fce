"""A worker's end of the line, spoken to as the supervisor does."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from phalanx.supervisor import lifeline as module
from phalanx.supervisor.lifeline import Lifeline, open_lifeline
from phalanx.supervisor.messages import (
    MAX_BYTES,
    Accept,
    Beat,
    Drain,
    Failed,
    Family,
    FromWorker,
    Hurry,
    Report,
    Sample,
    ToWorker,
    frame,
    receive,
)
from unit.supervisor.fakes import Events

FAMILY = Family("calls", "counter", "Calls.", [Sample("calls_total", {"a": "b"}, 3.0)])


class Line:
    """Both ends of a line."""

    def __init__(self, lifeline: Lifeline, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.lifeline = lifeline
        self.log = Events()
        self._reader, self.writer = reader, writer
        self._decoder: msgspec.msgpack.Decoder[FromWorker | None] = msgspec.msgpack.Decoder(FromWorker)

    def tell(self, message: ToWorker) -> None:
        self.writer.write(frame(message))

    async def hear(self) -> FromWorker | None:
        return await asyncio.wait_for(receive(self._reader, self._decoder), 5)

    async def hear_all(self) -> list[FromWorker]:
        """What is said until the line is closed."""
        heard = []
        while (message := await self.hear()) is not None:
            heard.append(message)
        return heard


@asynccontextmanager
async def line() -> AsyncIterator[Line]:
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    log = Events()
    async with open_lifeline(theirs.detach(), log=log) as lifeline:
        both = Line(lifeline, reader, writer)
        both.log = log
        yield both
    writer.close()


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


def test_signs_of_life_say_how_the_worker_does() -> None:
    """One at once, one with each change, and one a second."""

    async def scenario() -> None:
        async with line() as both:
            assert await both.hear() == Beat(ready=False, accepting=False)
            both.lifeline.update(ready=True)
            assert await both.hear() == Beat(ready=True, accepting=False)
            both.lifeline.update(ready=True)
            both.lifeline.update(accepting=True)
            assert [await both.hear(), await both.hear()] == [Beat(ready=True, accepting=True)] * 2

    run(scenario)


def test_a_worker_accepts_when_it_is_told_or_ready() -> None:
    """Not before."""

    async def scenario() -> None:
        async with line() as told, line() as ready:
            waiting = [asyncio.create_task(both.lifeline.until_accepting()) for both in (told, ready)]
            ready.lifeline.update(accepting=False)
            await asyncio.sleep(0.05)
            assert not any(task.done() for task in waiting)
            told.tell(Accept())
            ready.lifeline.update(ready=True)
            assert await asyncio.gather(*waiting) == [True, True]

    run(scenario)


def test_a_worker_told_to_drain_before_it_accepts_does_not_begin() -> None:
    async def scenario() -> None:
        async with line() as both:
            both.tell(Drain())
            assert not await asyncio.wait_for(both.lifeline.until_accepting(), 5)

    run(scenario)


@pytest.mark.parametrize("first", ["supervisor", "signal"])
def test_the_first_who_says_so_decides_how_to_drain(first: str) -> None:
    """A signal that comes besides changes nothing, and hurries nobody."""

    async def scenario() -> None:
        hurried = asyncio.Event()
        async with line() as both:
            both.lifeline.on_hurry(hurried.set)
            if first == "supervisor":
                both.tell(Drain(at_once=True))
                await both.lifeline.until_draining()
            for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
                os.kill(os.getpid(), number)
            await asyncio.sleep(0.05)
            both.tell(Drain(at_once=True))
            await asyncio.sleep(0.05)
            assert await both.lifeline.until_draining() == Drain(at_once=first == "supervisor")
            assert not hurried.is_set()

    run(scenario)


def test_a_supervisor_that_is_gone_means_drain_at_once() -> None:
    async def scenario() -> None:
        async with line() as both:
            both.writer.close()
            assert await asyncio.wait_for(both.lifeline.until_draining(), 5) == Drain(at_once=True)

    run(scenario)


def test_a_hurry_that_comes_early_is_kept() -> None:
    async def scenario() -> None:
        async with line() as both:
            both.tell(Hurry())
            both.tell(Drain())
            await both.lifeline.until_draining()
            hurried = asyncio.Event()
            both.lifeline.on_hurry(hurried.set)
            assert hurried.is_set()

    run(scenario)


def test_metrics_are_reported_and_once_more_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was counted last is not lost with the worker."""
    monkeypatch.setattr(module, "BEAT_S", 0.05)

    async def scenario() -> None:
        async with line() as both:
            both.lifeline.report(lambda: [FAMILY])
            while (heard := await both.hear()) != Report([FAMILY]):
                assert isinstance(heard, Beat)
            both.lifeline.report(list)
            both.lifeline.fail("there is no database")
        heard_last = await both.hear_all()
        assert heard_last[-1] == Report([])
        assert Failed("there is no database") in heard_last

    run(scenario)


def test_metrics_that_cannot_be_collected_stop_no_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are logged."""
    monkeypatch.setattr(module, "BEAT_S", 0.02)

    def fail() -> list[Family]:
        raise RuntimeError

    async def scenario() -> None:
        async with line() as both:
            both.lifeline.report(fail)
            assert {type(await both.hear()) for _ in range(10)} == {Beat}
            assert both.log.named("metrics not collected")

    run(scenario)


def test_nothing_piles_up_for_a_supervisor_that_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be stopped for hours."""
    monkeypatch.setattr(module, "BEAT_S", 0.001)
    large = [Family("calls", "counter", "x" * 100_000, [])]

    async def scenario() -> None:
        async with line() as both:
            both.lifeline.report(lambda: large)
            both.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await asyncio.sleep(0.5)
            assert both.lifeline._writer.transport.get_write_buffer_size() < 3 * 100_000
            both.writer.close()

    run(scenario)


@pytest.mark.parametrize(
    "sent", [b"\0\0\0\5hello", (MAX_BYTES + 1).to_bytes(4, "big"), frame(Failed("not for workers"))]
)
def test_what_is_no_message_is_refused(sent: bytes) -> None:
    async def scenario() -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(sent)
        with pytest.raises(ValueError):  # noqa: PT011
            await receive(reader, msgspec.msgpack.Decoder(ToWorker))

    run(scenario)


def test_half_a_message_is_an_end() -> None:
    async def scenario() -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(frame(Accept())[:-1])
        reader.feed_eof()
        assert await receive(reader, msgspec.msgpack.Decoder(ToWorker)) is None

    run(scenario)
