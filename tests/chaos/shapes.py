"""The shapes of an installation that chaos runs know: how many workers, under what, and where usage waits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Shape:
    """`places` are processes that are started, each of `workers` workers: of more than one it is their supervisor."""

    places: int = 3
    workers: int = 1
    environ: Mapping[str, str] = field(default_factory=dict)


SHAPES: Mapping[str, Shape] = {
    "replicas": Shape(),
    "redis-journal": Shape(environ={"USAGE_JOURNAL": "redis"}),
    "supervised": Shape(places=1, workers=2),
}
"""By the name that `make chaos SHAPE=…` knows; each on one PostgreSQL and one Redis."""
