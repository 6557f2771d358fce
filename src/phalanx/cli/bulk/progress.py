"""Say how far a run is: a bar on a terminal, else a line every ten seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from phalanx.cli.bulk.journal import Journal, Tally
from phalanx.cli.bulk.records import Position
from phalanx.cli.bulk.run import Show

LINE_EVERY_S = 10.0


@contextmanager
def showing(console: Console, total: int | None, begun: Journal, *, quiet: bool) -> Iterator[Show]:
    """Yield the function that is told how far the run is.

    `total` is the input's end as a `Position.offset`. What is in `begun` was done by earlier sittings and is left out
    of the rates.
    """
    if quiet:
        yield lambda tally, position: None
    elif console.is_terminal:
        with _bar(console) as progress:
            task = progress.add_task("", total=total, completed=begun.position.offset, words="starting")

            def move(tally: Tally, position: Position) -> None:
                progress.update(task, completed=position.offset, words=_words(tally, begun.tally))

            yield move
    else:
        yield _Lines(console, total, begun.tally).show


def summary(tally: Tally, begun: Tally, first_failure: str) -> str:
    """Return the run's last words: counts of all sittings, the rate of this one."""
    rate = _rate(tally.records - begun.records, tally.seconds - begun.seconds)
    words = (
        f"{tally.records:,} rows in {_duration(tally.seconds)} ({rate} rows/s): {tally.tokens:,} tokens, "
        f"{tally.truncated:,} truncated, {tally.failed:,} failed"
    )
    return f"{words}; the first: {first_failure}" if first_failure else words


class _Lines:
    """Prints a line now and then."""

    def __init__(self, console: Console, total: int | None, begun: Tally) -> None:
        self._console = console
        self._total = total
        self._begun = begun
        self._shown = time.monotonic()

    def show(self, tally: Tally, position: Position) -> None:
        now = time.monotonic()
        if now - self._shown < LINE_EVERY_S:
            return
        self._shown = now
        words = _words(tally, self._begun)
        if self._total:
            words = f"{words} · {position.offset / self._total:.0%}"
        self._console.print(words, highlight=False, soft_wrap=True)


def _bar(console: Console) -> Progress:
    return Progress(
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[words]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )


def _words(tally: Tally, begun: Tally) -> str:
    seconds = tally.seconds - begun.seconds
    return (
        f"{tally.records:,} rows · {_rate(tally.records - begun.records, seconds)} rows/s · "
        f"{_rate(tally.tokens - begun.tokens, seconds)} tokens/s"
    )


def _rate(count: int, seconds: float) -> str:
    return f"{count / seconds:,.0f}" if seconds > 0 else "0"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"
