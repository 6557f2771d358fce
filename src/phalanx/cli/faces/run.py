"""The run: a few pictures under way at once, their lines in order, failures counted, progress shown."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from phalanx.cli.bulk.journal import Tally
from phalanx.cli.faces.lines import Line, Output
from phalanx.cli.faces.pictures import Picture
from phalanx.contract.text import ItemError
from phalanx.errors import (
    DeadlineExceeded,
    Internal,
    InvalidRequest,
    LowQuality,
    NoFace,
    PhalanxError,
    SeveralFaces,
    TooLarge,
    UnreadableInput,
    UnsupportedMediaType,
)

OF_THE_PICTURE: tuple[type[PhalanxError], ...] = (
    DeadlineExceeded, Internal, InvalidRequest, LowQuality, NoFace, SeveralFaces, TooLarge, UnreadableInput,
    UnsupportedMediaType,
)  # fmt: skip
"""Failures that are one picture's own, so that the others are still looked at."""

WINDOW = 4
"""Pictures under way at once: enough that all threads of the engine have one."""

LINE_EVERY_S = 10.0

Work = Callable[[Picture], Awaitable[Line]]
Show = Callable[[int, Tally], None]
"""Told how many pictures are done, and what came of them."""


async def run(pictures: Sequence[Picture], work: Work, output: Output, show: Show, say: Callable[[str], None]) -> Tally:
    """Work on pictures behind those that are done, and write their lines in order; return the counts of all sittings.

    `tally.records` counts pictures, `tally.tokens` faces. `say` is told of each failure. Raises the first failure
    that is not a picture's own.
    """
    tally, began, spent = output.tally, time.monotonic(), output.tally.seconds
    async with aclosing(_in_order(pictures[output.done :], work)) as lines:
        async for line in lines:
            tally.records += 1
            tally.tokens += line.faces
            tally.seconds = spent + time.monotonic() - began
            if line.error is not None:
                tally.failed += 1
                say(f"{line.name}: {line.error.detail}")
            output.write(line)
            show(tally.records, tally)
    return tally


async def _in_order(pictures: Sequence[Picture], work: Work) -> AsyncGenerator[Line, None]:
    waiting: deque[asyncio.Task[Line]] = deque()
    left = iter(pictures)
    try:
        while True:
            while len(waiting) < WINDOW and (picture := next(left, None)) is not None:
                waiting.append(asyncio.create_task(_one(picture, work)))
            if not waiting:
                return
            yield await waiting[0]
            waiting.popleft()
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def _one(picture: Picture, work: Work) -> Line:
    try:
        return await work(picture)
    except OF_THE_PICTURE as error:
        return failed(picture, error)


def failed(picture: Picture, error: PhalanxError) -> Line:
    """Return the line of a picture that came to an error."""
    return Line(picture.name, {}, "", error=ItemError(code=error.code, detail=error.detail))


@contextmanager
def showing(console: Console, total: int, begun: int, *, bar: bool, quiet: bool) -> Iterator[Show]:
    """Yield the function that is told how far the run is: a bar on a terminal, else a line every ten seconds."""
    if quiet:
        yield lambda done, tally: None
    elif bar:
        columns = (
            BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[words]}"), TimeElapsedColumn(),
            TimeRemainingColumn(),
        )  # fmt: skip
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("", total=total, completed=begun, words="")
            yield lambda done, tally: progress.update(task, completed=done, words=_words(tally))
    else:
        shown = time.monotonic()

        def show(done: int, tally: Tally) -> None:
            nonlocal shown
            if time.monotonic() - shown >= LINE_EVERY_S:
                shown = time.monotonic()
                console.print(f"{done:,} of {total:,} pictures · {_words(tally)}", highlight=False, soft_wrap=True)

        yield show


def summary(tally: Tally, begun: int) -> str:
    """Return the run's last words."""
    rate = f" ({(tally.records - begun) / tally.seconds:,.0f}/s)" if tally.seconds > 0 and not begun else ""
    return f"{tally.records:,} pictures in {tally.seconds:,.1f} s{rate}: {_words(tally)}"


def _words(tally: Tally) -> str:
    return f"{tally.tokens:,} faces, {tally.failed:,} failed"
