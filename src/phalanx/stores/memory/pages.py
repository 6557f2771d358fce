"""Long lists, a page at a time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar


class Aged(Protocol):
    """What has an id and an age."""

    @property
    def id(self) -> str:
        """What no other one is called."""
        ...

    @property
    def created_at(self) -> float:
        """When it was made, in epoch seconds."""
        ...


A = TypeVar("A", bound=Aged)


def page(records: Iterable[A], *, after: str | None, limit: int | None) -> list[A]:
    """Return what comes after a record, by age, at most `limit` of them. Nothing comes after one that is not there."""
    ordered = sorted(records, key=lambda record: (record.created_at, record.id))
    if after is not None:
        places = [place for place, record in enumerate(ordered, 1) if record.id == after]
        ordered = ordered[places[0] :] if places else []
    return ordered[:limit]
