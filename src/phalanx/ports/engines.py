"""Engines and what is handed to them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

P_contra = TypeVar("P_contra", bound="Prepared", contravariant=True)
R_co = TypeVar("R_co", covariant=True)
P = TypeVar("P", bound="Prepared")
R = TypeVar("R")


class Prepared(Protocol):
    """One item ready for the engine."""

    @property
    def length(self) -> int:
        """Tokens of this item before padding, special tokens included; at least 1."""
        ...


class Engine(Protocol[P_contra, R_co]):
    """Maths over a batch: synchronous, no network, no clock, no options. Called by one engine thread only."""

    def run(self, batch: Sequence[P_contra]) -> Sequence[R_co]:
        """Compute one result an item, in order; the whole batch fails by raising."""
        ...


class Finished(NamedTuple, Generic[R]):
    """One item's result with the seconds it waited in the queue and spent in the engine."""

    value: R
    queue_s: float
    engine_s: float


class Submission(NamedTuple, Generic[P]):
    """One item for the runner; items with an equal `identity` of one tenant are computed once (None: never shared)."""

    item: P
    identity: Hashable | None = None
