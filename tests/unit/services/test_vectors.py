"""Vectors compared by the service: the form of a request, what is metered, and where work is done."""

from __future__ import annotations

import asyncio
import math
import threading
from typing import Any

import numpy as np
import pytest

from clocks import HandClock
from phalanx.contract.vectors import Match, VectorSimilarityRequest
from phalanx.errors import DeadlineExceeded, InvalidRequest, TooLarge
from phalanx.services.threads import BoundedThreads
from phalanx.services.ticket import Meter
from phalanx.services.vectors import MAX_SCORES, VectorService


class Admitted:
    """As much of a ticket as the service looks at."""

    def __init__(self, deadline: float = math.inf) -> None:
        self.deadline = deadline
        self.meter = Meter()


class Counting(BoundedThreads):
    """Threads that tell how often they were used."""

    used = 0

    async def run(self, ticket: Any, work: Any, **options: Any) -> Any:
        self.used += 1
        return await super().run(ticket, work, **options)


def ask(ticket: Any = None, **fields: Any) -> Any:
    """Return the answer to a request, how often threads were used, and the meter."""
    ticket = ticket or Admitted()
    threads = Counting("vectors", HandClock(), at_once=2, max_waiting=4)
    try:
        response = asyncio.run(VectorService(threads).similarity(ticket, VectorSimilarityRequest(**fields)))
    finally:
        threads.close()
    return response, threads.used, ticket.meter


def test_each_form_has_its_own_answer() -> None:
    """And meters every vector that was sent."""
    pair, _, meter = ask(a=[1.0, 0.0], b=[3.0, 4.0])
    assert (pair.similarity, pair.scores, pair.matches, pair.matrix) == (pytest.approx(0.6), None, None, None)
    assert (meter.units, meter.items) == (2, 2)
    row, _, meter = ask(query=[0.0, 1.0], candidates=[[3.0, 4.0], [0.0, 2.0], [1.0, 0.0]])
    assert row.scores.tolist() == pytest.approx([0.8, 1.0, 0.0])
    assert meter.units == 4
    best, _, _ = ask(query=[0.0, 1.0], candidates=[[3.0, 4.0], [0.0, 2.0]], top_k=9)
    assert [(match.index, match.score) for match in best.matches] == [(1, 1.0), (0, pytest.approx(0.8))]
    near, _, _ = ask(query=[0.0], candidates=[[5.0], [-1.0], [2.0]], top_k=2, metric="euclidean")
    assert near.matches == [Match(1, 1.0), Match(2, 2.0)]
    whole, _, meter = ask(left=[[1.0, 0.0]], right=[[2.0, 0.0], [0.0, 1.0]], metric="dot")
    assert whole.matrix.tolist() == [[2, 0]]
    assert meter.units == 3


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "has none of them"),
        ({"a": [1.0]}, "this request has a$"),
        ({"candidates": [[1.0]]}, "has candidates$"),
        ({"a": [1.0], "b": [1.0], "left": [[1.0]]}, "has a and b and left$"),
        ({"a": [1.0], "candidates": [[1.0]]}, "has a and candidates$"),
        ({"a": [1.0], "b": [1.0], "top_k": 1}, "top_k goes with query and candidates"),
        ({"left": [[1.0]], "right": [[1.0]], "top_k": 1}, "top_k goes with"),
        ({"a": [1.0, 2.0], "b": [1.0]}, "a have 2 numbers, those of b 1"),
        ({"query": [1.0], "candidates": [[1.0, 2.0]]}, "query have 1 numbers, those of candidates 2"),
        ({"left": [[1.0]], "right": [[1.0, 2.0]]}, "left have 1 numbers, those of right 2"),
        ({"a": [], "b": []}, "a is empty"),
        ({"query": [1.0], "candidates": []}, "candidates is empty"),
        ({"left": [], "right": [[1.0]]}, "left is empty"),
    ],
)
def test_a_request_of_no_form_is_refused(fields: dict[str, Any], said: str) -> None:
    """With what was sent; nothing is metered."""
    ticket = Admitted()
    with pytest.raises(InvalidRequest, match=said):
        ask(ticket, **fields)
    assert ticket.meter.units == 0


def test_an_answer_is_bounded() -> None:
    """By its scores, whatever the bytes of the request."""
    side = np.ones((1025, 1), np.float32)
    with pytest.raises(TooLarge, match=f"1025 × 1025 vectors make 1050625 scores, {MAX_SCORES} are allowed"):
        ask(left=side, right=side)
    assert ask(left=side[:1024], right=side[:1024])[0].matrix.shape == (1024, 1024)


def test_small_work_is_done_at_once_and_large_work_in_a_thread() -> None:
    draw = np.random.default_rng(0)
    rows = draw.standard_normal((1000, 512), dtype=np.float32)
    assert ask(query=rows[0].tolist(), candidates=rows[:100].tolist())[1] == 0
    response, used, _ = ask(left=rows[:1], right=rows)
    assert used == 1
    assert response.matrix[0, 0] == pytest.approx(1.0, abs=1e-6)


def test_large_work_honours_the_deadline() -> None:
    """What is late already is not begun, and bills nothing."""
    rows = np.ones((1000, 512), np.float32)
    ticket = Admitted(deadline=HandClock().monotonic() - 1)
    with pytest.raises(DeadlineExceeded):
        ask(ticket, left=rows, right=rows)
    assert ticket.meter.units == 0


def test_what_is_cancelled_while_it_waits_is_never_begun() -> None:
    async def scenario() -> None:
        threads, go, begun = BoundedThreads("vectors", HandClock(), at_once=1, max_waiting=1), threading.Event(), []
        busy = asyncio.create_task(threads.run(Admitted(), lambda: go.wait(5)))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        waiting = asyncio.create_task(threads.run(Admitted(), lambda: begun.append(1)))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        # Its place is free again: a third finds room.
        await asyncio.sleep(0)
        third = asyncio.create_task(threads.run(Admitted(), lambda: "room"))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        go.set()
        assert await third == "room"
        await busy
        assert begun == []
        threads.close()

    asyncio.run(scenario())
