"""What is still to be told to those who want to hear of the end of their jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol


class Notice(NamedTuple):
    """A message on its way: its id, where it goes, its JSON, and how often that has failed."""

    id: str
    url: str
    body: bytes
    failures: int = 0


Put = Literal["new", "known", "full"]


class Outbox(Protocol):
    """Notices until they are delivered or given up, in the place where the jobs are. Times are epoch seconds.

    Down: `unavailable`. A notice whose sender died is claimed again once its lease is over.
    """

    async def put(self, notice: Notice, *, due_at: float) -> Put:
        """Keep a notice; one whose id is here already stays as it is, and beyond a bound no more are kept."""
        ...

    async def claim(self, limit: int, *, now: float, lease_s: float) -> Sequence[Notice]:
        """Return up to `limit` notices that are due, those longest due first; nobody else gets them for `lease_s` seconds."""
        ...

    async def put_back(self, notice: Notice, *, due_at: float) -> None:
        """Have a notice claimed again later, with the failures that it has now."""
        ...

    async def remove(self, notice_id: str) -> None:
        """Forget a notice."""
        ...
