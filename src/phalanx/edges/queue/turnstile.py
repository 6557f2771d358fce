"""Jobs run among each other, or one of them alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turnstile:
    """Lets many jobs run at once, or one alone: so that a process which dies says which job it died of."""

    def __init__(self) -> None:
        self._running = 0
        self._wanting = 0
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def among(self) -> AsyncIterator[None]:
        """Run beside others, once nobody runs alone or wants to."""
        if self._wanting:
            async with self._changed:
                await self._changed.wait_for(lambda: not self._wanting)
                self._running += 1
        else:
            self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            if self._wanting:
                async with self._changed:
                    self._changed.notify_all()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Run once nobody else does, and keep the others waiting."""
        self._wanting += 1
        entered = False
        try:
            async with self._changed:
                await self._changed.wait_for(lambda: not self._running)
                self._running += 1
                entered = True
            yield
        finally:
            self._wanting -= 1
            self._running -= entered
            async with self._changed:
                self._changed.notify_all()
