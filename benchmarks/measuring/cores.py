"""Which cores a process may use."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


def available() -> list[int]:
    """Return the cores of this process."""
    return sorted(os.sched_getaffinity(0))


def split() -> tuple[list[int], list[int]]:
    """Return one core for a server and another for its clients; the same one where there is but one."""
    cores = available()
    return cores[:1], cores[1:2] or cores[:1]


@contextmanager
def pinned(cores: Sequence[int] | None) -> Iterator[None]:
    """Let processes started meanwhile have these cores only: affinity is inherited."""
    before = os.sched_getaffinity(0)
    if cores:
        os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
