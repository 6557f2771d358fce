"""SIGTERM and its kin, heard on the event loop and up to the very end of a process.

A loop's own `add_signal_handler` ends with the loop, which gives each signal its default back: one that came while Python
was going made a failure of an end in order. Handlers of the interpreter outlive the loop.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterable
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGINT)
"""What tells a process to end."""


def on_signal(handler: Callable[[], None], numbers: Iterable[signal.Signals] = ENDING) -> None:
    """Call `handler` on the running loop whenever one of these signals comes. In the main thread only."""
    loop = asyncio.get_running_loop()

    def told(number: int, frame: FrameType | None) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(handler)

    for number in numbers:
        signal.signal(number, told)


def restore_signals(numbers: Iterable[signal.Signals] = ENDING) -> None:
    """Give signals their default back."""
    for number in numbers:
        signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)


def ignore_signals(numbers: Iterable[signal.Signals] = ENDING) -> None:
    """Ignore signals for good: all is done and closed, and what is left is Python's own going."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
