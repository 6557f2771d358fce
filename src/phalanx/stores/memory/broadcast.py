"""News about changes, within one process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

MAX_WAITING = 1_000


class MemoryBroadcast:
    """A `Broadcast` to the listeners of this process. One that a thousand messages wait for is told that it missed some."""

    def __init__(self) -> None:
        self._listeners: set[asyncio.Queue[Sequence[str] | None]] = set()

    async def publish(self, subjects: Sequence[str]) -> None:
        """Tell all who listen that subjects changed."""
        for queue in self._listeners:
            if queue.qsize() >= MAX_WAITING:
                while not queue.empty():
                    queue.get_nowait()
                queue.put_nowait(None)
            else:
                queue.put_nowait(list(subjects))

    async def messages(self) -> AsyncIterator[Sequence[str] | None]:
        """Yield the subjects of each message from now on, and None where some were dropped."""
        queue: asyncio.Queue[Sequence[str] | None] = asyncio.Queue()
        self._listeners.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._listeners.discard(queue)
