"""Closing a worker's parts in reverse, each within a bounded time, and the end of the process after it."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from types import FrameType
from typing import Any

from phalanx.telemetry import Log

STEP_S = 10.0
"""What one part may take. Each is bounded by itself, but for what a library or a network makes of it."""


LEAVE_S = 5.0
"""Seconds that threads are given once all parts are closed."""


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


def leave(log: Log, *, within_s: float = LEAVE_S) -> None:
    """Have this process end with status 0 within so many seconds, whatever its threads still compute. All must be closed.

    Python waits for the threads of pools without a bound, and nobody can stop one that loads a model: on a busy machine a
    worker that was told to stop at its start went on for minutes.
    """
    timer = threading.Timer(within_s, _end_now, (log, within_s))
    timer.daemon = True
    timer.start()


def _end_now(log: Log, after_s: float) -> None:
    left = {thread.ident: thread.name for thread in threading.enumerate() if not thread.daemon}
    left.pop(threading.main_thread().ident, None)
    frames = sys._current_frames()
    places = [f"{name}: {_place(frames[ident])}" for ident, name in left.items() if ident in frames]
    log.warning("ended while threads still compute", threads=places, after_s=after_s)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _place(innermost: FrameType) -> str:
    """Return where a thread is in code of ours, or else in that of others."""
    frame: FrameType | None = innermost
    while frame is not None and not str(frame.f_globals.get("__name__", "")).startswith("phalanx."):
        frame = frame.f_back
    return (frame or innermost).f_code.co_qualname
