"""Requests of a stream answered in order, while those behind are worked on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from phalanx.services.ahead import answered_ahead


class Line:
    """Numbers that are asked for, and answers that are given when told."""

    def __init__(self, count: int, fail_at: int | None = None) -> None:
        self.count, self.fail_at = count, fail_at
        self.read: list[int] = []
        self.begun: list[int] = []
        self.cancelled: list[int] = []
        self.gates = [asyncio.Event() for _ in range(count)]

    async def requests(self) -> AsyncIterator[int]:
        for number in range(self.count):
            if number == self.fail_at:
                raise ValueError("a bad request")
            self.read.append(number)
            yield number

    async def answer(self, number: int) -> int:
        self.begun.append(number)
        try:
            await self.gates[number].wait()
        except asyncio.CancelledError:
            self.cancelled.append(number)
            raise
        if number == 99:
            raise ValueError("a bad answer")
        return number

    def answers(self, most: int, weight: int = 1) -> Any:
        return answered_ahead(self.requests(), self.answer, lambda number: weight, most)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_answers_keep_their_order() -> None:
    """The last is ready first."""

    async def run() -> None:
        line = Line(5)
        for gate in reversed(line.gates):
            asyncio.get_running_loop().call_soon(gate.set)
        assert [one async for one in line.answers(10)] == [0, 1, 2, 3, 4]

    asyncio.run(run())


@pytest.mark.parametrize(("weight", "begun"), [(1, 4), (2, 2), (3, 2), (100, 1)])
def test_no_more_is_read_than_may_be_under_way(weight: int, begun: int) -> None:
    """However heavy, one is; and one more is read, not begun, at most."""

    async def run() -> None:
        line = Line(20)
        answers = line.answers(4, weight)
        first = asyncio.ensure_future(anext(answers))
        await settle()
        assert len(line.begun) == begun
        assert len(line.read) <= begun + 1
        line.gates[0].set()
        assert await first == 0
        await settle()
        assert len(line.read) <= begun + 2
        await answers.aclose()

    asyncio.run(run())


def test_a_bad_request_is_said_after_the_answers_before_it() -> None:
    """And nothing behind it is read."""

    async def run() -> None:
        line, got = Line(5, fail_at=2), []
        for gate in line.gates:
            gate.set()

        async def collect() -> None:
            async for one in line.answers(10):
                got.append(one)

        with pytest.raises(ValueError, match="a bad request"):
            await collect()
        assert got == [0, 1]

    asyncio.run(run())


def test_who_leaves_ends_what_is_under_way() -> None:
    """All of it."""

    async def run() -> None:
        line = Line(5)
        async with aclosing(line.answers(10)) as answers:
            first = asyncio.ensure_future(anext(answers))
            await settle()
            line.gates[0].set()
            assert await first == 0
        assert line.cancelled == [1, 2, 3, 4]

    asyncio.run(run())


def test_an_empty_stream_ends() -> None:
    """Nothing in, nothing out."""

    async def run() -> None:
        assert [one async for one in Line(0).answers(1)] == []

    asyncio.run(run())
