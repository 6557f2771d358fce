"""What workers tell each other of what they are about to do together."""

from __future__ import annotations

from typing import Protocol


class Rollcall(Protocol):
    """What each worker says of a matter, for as long as it lives. Down: each worker decides alone, after a while."""

    async def say(self, matter: str, worker_id: str, word: str) -> dict[str, str]:
        """Say one's word on a matter and return the latest word of each worker that lives, this one included.

        A worker lives for some seconds after each word. Raises `Unavailable`.
        """
        ...

    async def leave(self, matter: str, worker_id: str) -> None:
        """Have no word on a matter any more. Never raises."""
        ...
