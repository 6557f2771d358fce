"""Tasks whose first step runs at once.

A task made in the ordinary way waits until the event loop has served every socket that was ready with its
own. When 2,000 requests arrive together that is tens of milliseconds between reading a request and looking at
it. Run at once, a request that can be answered without waiting (a refusal, a cache hit) is answered before
the next one is read.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any

if sys.version_info >= (3, 12):

    def start_eagerly(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task of the running loop; `work` has run up to its first wait, or to its end, on return."""
        return asyncio.Task(work, loop=loop, eager_start=True)

else:

    def start_eagerly(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task of the running loop; `work` has run up to its first wait, or to its end, on return.

        Python 3.11 has no eager tasks. There a task hands its first step to the loop's `call_soon`, which an
        attribute of the loop object can shadow for that one call, on the loop's own thread; the step is then
        run here. Inside another task, whose step must end first, and on a loop without attributes the task
        starts the ordinary way.
        """
        attributes: dict[str, Any] | None = getattr(loop, "__dict__", None)
        if attributes is None or asyncio.current_task(loop) is not None:
            return loop.create_task(work)
        steps: list[tuple[Callable[[], object], Context]] = []

        def hold(step: Callable[[], object], *, context: Context) -> None:
            steps.append((step, context))

        attributes["call_soon"] = hold
        try:
            task = asyncio.Task(work, loop=loop)
        finally:
            del attributes["call_soon"]
        step, context = steps[0]
        context.run(step)
        return task
