"""A stream of requests answered in their order, while those behind are already worked on."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


async def answered_ahead(
    requests: AsyncIterator[Q], answer: Callable[[Q], Awaitable[A]], weigh: Callable[[Q], int], most: int
) -> AsyncGenerator[A, None]:
    """Yield `answer(request)` for each request, in their order, with requests of up to `most` weight under way at once.

    Whoever does not take answers is not read from: what was yielded counts until the next is asked for. What fails, a
    request or its answer, is raised once all before it are answered. Left early, what is under way is cancelled.
    """
    waiting: deque[tuple[asyncio.Future[A], int]] = deque()
    weight = 0
    reading: asyncio.Future[Q] | None = asyncio.ensure_future(anext(requests))
    failure: BaseException | None = None
    try:
        while waiting or reading is not None:
            watched: set[asyncio.Future[Any]] = set()
            if reading is not None and (weight < most or not waiting):
                watched.add(reading)
            if waiting:
                watched.add(waiting[0][0])
            await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            if reading is not None and reading.done() and reading in watched:
                try:
                    request = reading.result()
                except StopAsyncIteration:
                    reading = None
                except Exception as error:
                    reading, failure = None, error
                else:
                    waiting.append((asyncio.ensure_future(answer(request)), weigh(request)))
                    weight += waiting[-1][1]
                    reading = asyncio.ensure_future(anext(requests))
            if waiting and waiting[0][0].done():
                done, its = waiting[0]
                yield done.result()
                waiting.popleft()
                weight -= its
        if failure is not None:
            raise failure
    finally:
        left: list[asyncio.Future[Any]] = [task for task, _ in waiting]
        if reading is not None:
            left.append(reading)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
