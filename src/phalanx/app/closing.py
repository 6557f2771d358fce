"""Closing a worker's parts in reverse, each within a bounded time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

from phalanx.telemetry import Log

STEP_S = 10.0
"""What one part may take. Each is bounded by itself, but for what a library or a network makes of it."""


class Closing(AsyncExitStack):
    """What is to be closed. A part that takes too long is given up and named, so that the others are closed too."""

    def __init__(self, log: Log, *, step_s: float = STEP_S) -> None:
        super().__init__()
        self._log = log
        self._step_s = step_s

    def close_with(self, close: Callable[[], Awaitable[None]], *, name: str = "") -> None:
        """Have a part closed by this call, before those that were named earlier."""
        self.push_async_callback(self._within, close, name or close.__qualname__)

    def keep_running(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something beside everything else, until it is its turn to be closed."""
        task = asyncio.create_task(work)

        async def end() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        self.close_with(end, name=getattr(work, "__qualname__", ""))

    async def _within(self, close: Callable[[], Awaitable[None]], name: str) -> None:
        task = asyncio.ensure_future(close())
        _, late = await asyncio.wait({task}, timeout=self._step_s)
        if late:
            task.cancel()
            self._log.error("given up: a part of the worker does not close", part=name, after_s=self._step_s)
            return
        task.result()
