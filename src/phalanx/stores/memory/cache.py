"""The first level of caches."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Generic

from phalanx.ports.caches import V

ENTRY_BYTES = 200
"""What an entry of bytes costs beside its value: its key, the two objects and their place in the dictionary, on 64 bits."""


def size_of(value: bytes) -> int:
    """Return about how many bytes of memory an entry takes that keeps `value`."""
    return len(value) + ENTRY_BYTES


class MemoryCache(Generic[V]):
    """A `Cache` that keeps the values used last, as many as weigh `room` together; 0 keeps none.

    Unless `weigh` says otherwise each weighs 1. A value that is heavier than the room is not kept.
    """

    def __init__(self, room: int, *, weigh: Callable[[V], int] | None = None) -> None:
        if room < 0:
            raise ValueError(f"room is {room}; it is 0 or more")
        self._room = room
        self._weigh = weigh
        self._weight = 0
        self._entries: OrderedDict[bytes, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def weight(self) -> int:
        """What everything kept weighs."""
        return self._weight

    async def get_many(self, keys: Sequence[bytes]) -> list[V | None]:
        """Return what is kept under each key, in order; None where there is nothing."""
        entries, touch = self._entries, self._entries.move_to_end
        found: list[V | None] = []
        for key in keys:
            hit = entries.get(key)
            if hit is not None:
                touch(key)
            found.append(hit)
        return found

    async def set_many(self, entries: Sequence[tuple[bytes, V]]) -> None:
        """Keep values, each as the one used last, and drop those unused longest where room is short."""
        for key, value in entries:
            self._drop(key)
            weight = self._weigh(value) if self._weigh else 1
            if weight > self._room:
                continue
            self._entries[key] = value
            self._weight += weight
            while self._weight > self._room:
                self._drop(next(iter(self._entries)))

    def _drop(self, key: bytes) -> None:
        value = self._entries.pop(key, None)
        if value is not None:
            self._weight -= self._weigh(value) if self._weigh else 1
