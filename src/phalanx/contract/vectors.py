"""Calls about vectors."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from phalanx.contract.vector import Matrix

Metric = Literal["cosine", "euclidean", "dot"]
"""Cosine in -1..1 and dot: larger is nearer. Euclidean is a distance: smaller is nearer."""

Numbers = Annotated[list[float], Meta(description="A vector.")]
Rows = Annotated[
    list[list[float]], Meta(description="Vectors, all as long. A binary body brings these as float32 rows.")
]

Scores = Annotated[
    Any,
    Meta(
        description="One number (float32) a candidate, in their order.",
        extra_json_schema={"oneOf": [{"type": "array", "items": {"type": "number"}}, {"type": "null"}]},
    ),
]
"""A float32 array of shape `[n]`, or None."""

ScoreMatrix = Annotated[
    Matrix,
    Meta(
        description="One row a left vector, with one number (float32) a right vector.",
        extra_json_schema={
            "oneOf": [{"type": "array", "items": {"type": "array", "items": {"type": "number"}}}, {"type": "null"}]
        },
    ),
]
"""A float32 array of shape `[left, right]`, or None."""


class VectorSimilarityRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of three forms: `a` and `b`; `query` and `candidates`, of which `top_k` keeps the nearest; `left` and `right`.

    From a binary body `left` and `right` are float32 arrays of shape `[rows, dimensions]`.
    """

    a: Numbers | None = None
    b: Numbers | None = None
    query: Numbers | None = None
    candidates: Rows | None = None
    top_k: Annotated[int, Meta(ge=1)] | None = None
    left: Rows | None = None
    right: Rows | None = None
    metric: Metric = "cosine"


class Match(Struct, frozen=True):
    """A candidate by its place in the request, from 0."""

    index: int
    score: float


class VectorSimilarityResponse(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the request's form asks for, and that alone."""

    similarity: float | None = None
    scores: Scores = None
    matches: list[Match] | None = None
    matrix: ScoreMatrix = None
