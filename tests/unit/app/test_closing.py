"""A worker's parts are closed in reverse, and one that hangs holds up none of the others."""

from __future__ import annotations

import asyncio

import pytest
import structlog
from structlog.testing import capture_logs

from phalanx.app.closing import Closing


def test_parts_are_closed_in_reverse_and_a_hanging_one_is_given_up() -> None:
    closed: list[str] = []

    async def first() -> None:
        closed.append("first")

    async def hangs() -> None:
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                closed.append("cancelled")
                return

    async def last() -> None:
        closed.append("last")

    async def scenario() -> None:
        async with Closing(structlog.get_logger(), step_s=0.05) as closing:
            closing.close_with(first)
            closing.close_with(hangs, name="what hangs")
            closing.close_with(last)
        await asyncio.sleep(0)

    with capture_logs() as lines:
        asyncio.run(scenario())
    assert closed == ["last", "first", "cancelled"] or closed == ["last", "cancelled", "first"]
    assert [line["part"] for line in lines] == ["what hangs"]


def test_what_runs_beside_is_ended_in_its_turn() -> None:
    order: list[str] = []

    async def works() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            order.append("ended")

    async def scenario() -> None:
        async with Closing(structlog.get_logger()) as closing:
            closing.keep_running(works())
            await asyncio.sleep(0)
            order.append("served")

    asyncio.run(scenario())
    assert order == ["served", "ended"]


def test_a_part_that_fails_says_so_after_the_others_are_closed() -> None:
    closed: list[str] = []

    async def fails() -> None:
        raise ValueError("mine")

    async def other() -> None:
        closed.append("other")

    async def scenario() -> None:
        async with Closing(structlog.get_logger()) as closing:
            closing.close_with(other)
            closing.close_with(fails)

    with pytest.raises(ValueError, match="mine"):
        asyncio.run(scenario())
    assert closed == ["other"]
