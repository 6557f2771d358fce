"""How far a job has come, on its way to whoever looks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from phalanx.contract.jobs import JobProgress, JobStage
from phalanx.services.ticket import Step

BETWEEN_S = 0.1
"""Between two writes of one job's progress, in seconds."""

Tell = Callable[[Sequence[JobProgress]], Awaitable[None]]


class Progress:
    """Takes the steps of one job and has them told, beside the job.

    `tell` gets what is new, oldest first: each stage, and of each the latest fraction. It is called at once for the first
    step, then ten times a second at most, and by `end` for what is left, so that nothing comes after the job's end. What
    could not be told is not told again: the next step says all.
    """

    def __init__(self, tell: Tell, failed: Callable[[Exception], object]) -> None:
        """`failed` is given what telling raised."""
        self._tell = tell
        self._failed = failed
        self._stages: list[JobStage] = []
        self._new: list[JobProgress] = []
        self._over = asyncio.Event()
        self._telling: asyncio.Task[None] | None = None

    def note(self, step: Step) -> None:
        """Take a step."""
        fraction = min(max(step.fraction, 0.0), 1.0)
        if step.stage and (not self._stages or self._stages[-1].stage != step.stage):
            self._stages.append(JobStage(stage=step.stage, at=time.time(), fraction=fraction))
        elif self._new:
            self._new.pop()
        stage = self._stages[-1].stage if self._stages else None
        self._new.append(JobProgress(fraction=fraction, stage=stage, stages=list(self._stages)))
        if self._telling is None:
            self._telling = asyncio.create_task(self._tell_all())

    async def end(self) -> None:
        """Have told what is left."""
        self._over.set()
        if self._telling is not None:
            await self._telling

    async def _tell_all(self) -> None:
        while self._new:
            new, self._new = self._new, []
            try:
                await self._tell(new)
            except Exception as error:
                self._failed(error)
            with suppress(TimeoutError):
                async with asyncio.timeout(BETWEEN_S):
                    await self._over.wait()
        self._telling = None
