"""Which shapes a backend is shown.

A backend compiles kernels for every new shape: measured with OpenVINO on two cores, 4 to 6 ms each, and 1 MiB where
they are kept. So rows and lengths are rounded up on ladders: fewer than 200 shapes in all for 256 tokens, whatever
comes in, and a batch of unlike lengths is run in groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

LENGTH_STEP = 16
TOKEN_BUDGET = 1024
"""Padded tokens a call: measured best on two cores; more gains nothing and waits longer."""

CALL_COST = 64
"""What a call costs beside its tokens, in tokens: about 1.5 ms of change of shape and passes over the weights. A group
takes in a shorter text as long as padding it, with those before, costs less than that."""

_ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64)
_FINE_LENGTHS = 256
_SHORTEST = 8


def padded_length(length: int, limit: int) -> int:
    """Round a text's length up: to 8, then 16 until 256, 64 until 1,024, and 256, but to `limit` at most."""
    if length <= _SHORTEST:
        return max(length, min(limit, _SHORTEST))
    step = LENGTH_STEP if length <= _FINE_LENGTHS else 64 if length <= 1024 else 256
    return max(length, min(limit, -(-length // step) * step))


def padded_rows(rows: int) -> int:
    """Round a number of texts, at most 64, up; the waste is at most a fifth, and 6 % on average."""
    return next(step for step in _ROWS if step >= rows)


def group(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield the indices of the texts to run together, given their padded lengths: longest first, all exactly once."""
    current: list[int] = []
    longest = wasted = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        waste = longest - lengths[index]
        full = (len(current) + 1) * longest > TOKEN_BUDGET or len(current) == _ROWS[-1]
        if current and (full or wasted + waste > CALL_COST):
            yield current
            current, wasted = [], 0
        if not current:
            longest, waste = lengths[index], 0
        current.append(index)
        wasted += waste
    if current:
        yield current
