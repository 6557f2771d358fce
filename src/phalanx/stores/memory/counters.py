"""Integers by key, bounded in number, for the limiter."""

from __future__ import annotations

from collections import OrderedDict

SAMPLE = 8


class BoundedCounters:
    """A dictionary of integers that forgets the least important entry when it is full, in constant time.

    Of the `SAMPLE` entries that were left alone longest it drops the one with the smallest value; the others have a
    second chance. For a limiter that is the entry nearest to a full allowance, for a quota the one that used least.
    """

    def __init__(self, max_entries: int) -> None:
        if max_entries < 1:
            raise ValueError(f"max_entries is {max_entries}; at least 1 is needed")
        self._max_entries = max_entries
        self._values: OrderedDict[str, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: str, default: int) -> int:
        """Return the value of `key`, or `default`."""
        return self._values.get(key, default)

    def set(self, key: str, value: int) -> None:
        """Set the value of `key`, dropping another entry if there is no room for a new one."""
        values = self._values
        if key in values:
            values.move_to_end(key)
        elif len(values) >= self._max_entries:
            self._drop_one()
        values[key] = value

    def _drop_one(self) -> None:
        values = self._values
        sample = [values.popitem(last=False) for _ in range(min(SAMPLE, len(values)))]
        least = min(range(len(sample)), key=lambda index: sample[index][1])
        del sample[least]
        values.update(sample)
