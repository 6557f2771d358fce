"""Rows about vectors."""

from __future__ import annotations

from phalanx.contract import vectors
from phalanx.operations.row import Body, Operation

VECTORS: tuple[Operation, ...] = (
    Operation(
        name="vectors.similarity", request=vectors.VectorSimilarityRequest, response=vectors.VectorSimilarityResponse,
        scope="vectors", unit="vector", http="POST /v1/vectors/similarity", grpc="Vectors/Similarity", job=True,
        computed=True, bodies=(Body.JSON, Body.VECTORS), max_body_bytes=16 * 2**20,
        run=lambda s, t, r: s.vectors.similarity(t, r),
        summary="Compare vectors: a pair, one with many, or many with many.",
        examples=(
            {"a": [1.0, 2.0], "b": [2.0, 1.0]},
            {"query": [1.0, 0.0], "candidates": [[0.6, 0.8], [1.0, 0.1]], "top_k": 1},
            {"left": [[1.0, 0.0]], "right": [[0.0, 1.0], [3.0, 4.0]], "metric": "euclidean"},
        ),
    ),
)  # fmt: skip
