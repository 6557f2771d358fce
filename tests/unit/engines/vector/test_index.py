"""Exact search: the nearest are those of a float32 scan, on data of every kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from phalanx.contract.vector import Vector
from phalanx.contract.vectors import Metric
from phalanx.engines.backends import scan as scan_module
from phalanx.engines.backends.scan import Int8Scan
from phalanx.engines.vector import index as index_module
from phalanx.engines.vector.index import VectorIndex, quantise
from phalanx.errors import InvalidRequest, UnreadableInput

ROWS, DIMENSIONS, QUERIES, K = 6000, 96, 12, 10


@pytest.fixture(autouse=True)
def scan_of_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scan is tried on few rows, of several graphs."""
    monkeypatch.setattr(index_module, "MIN_SCANNED", 1)
    monkeypatch.setattr(index_module, "BLOCK_BYTES", DIMENSIONS * 2500)


def data(kind: str) -> tuple[Vector, Vector]:
    """Rows, and queries near some of them."""
    draw = np.random.default_rng(1)
    rows = draw.standard_normal((ROWS, DIMENSIONS), dtype=np.float32)
    if kind == "clustered":
        centres = draw.standard_normal((20, DIMENSIONS), dtype=np.float32)
        rows = rows * np.float32(0.05) + centres[draw.integers(0, 20, ROWS)]
    elif kind == "spikes":
        # One large number a row coarsens the steps of all its others.
        rows[np.arange(ROWS), draw.integers(0, DIMENSIONS, ROWS)] = 50
    elif kind == "lengths":
        rows *= draw.lognormal(0, 3, (ROWS, 1)).astype(np.float32)
    elif kind == "copies":
        rows = rows[draw.integers(0, 40, ROWS)]
    noise = draw.standard_normal((QUERIES, DIMENSIONS), dtype=np.float32)
    return rows, rows[draw.integers(0, ROWS, QUERIES)] + np.float32(0.1) * noise


def wanted(rows: Vector, query: Vector, metric: Metric) -> Any:
    """Every row's score in float64."""
    wide, target = rows.astype(np.float64), query.astype(np.float64)
    if metric == "euclidean":
        return np.linalg.norm(wide - target, axis=1)
    products = wide @ target
    return products if metric == "dot" else products / (np.linalg.norm(wide, axis=1) * np.linalg.norm(target))


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "dot"])
@pytest.mark.parametrize("kind", ["random", "clustered", "spikes", "lengths", "copies"])
def test_the_nearest_are_found(kind: str, metric: Metric) -> None:
    """The scores found are the k best that there are, in order, and belong to the rows named."""
    rows, queries = data(kind)
    index = VectorIndex(rows, metric=metric)
    assert len(index) == ROWS
    for query in queries:
        truth = wanted(rows, query, metric)
        found = index.search(query, K)
        best = np.sort(truth)[:K] if metric == "euclidean" else np.sort(truth)[::-1][:K]
        grain = 4e-6 * max(1.0, float(np.abs(truth).max()))
        assert np.abs(truth[found.indices] - best).max() <= grain
        assert np.abs(found.scores - best).max() <= grain
        assert len(set(found.indices.tolist())) == K


def test_few_rows_are_scored_twice() -> None:
    """The bounds leave little of random data; were they void, everything would be scored."""
    rows, queries = data("random")
    index = VectorIndex(rows)
    index.search(queries[0], K)
    assert K <= index.rescored < ROWS / 20


def test_of_equal_rows_the_earlier_come_first() -> None:
    rows, _ = data("copies")
    index = VectorIndex(rows)
    found = index.search(rows[0], 5)
    same = np.flatnonzero((rows == rows[0]).all(axis=1))[:5]
    assert found.indices.tolist() == same.tolist()


def test_without_exact_int8_there_is_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor whose kernel adds in 16 bits."""

    def overflow(request: Any, feed: Any) -> Any:
        return np.full(2500, 32767, np.float32)

    rows, queries = data("random")
    wanted_indices = VectorIndex(rows).search(queries[0], K).indices.tolist()
    monkeypatch.setattr(scan_module, "_infer", overflow)
    index = VectorIndex(rows)
    assert index.search(queries[0], K).indices.tolist() == wanted_indices
    assert index.rescored == ROWS


def test_more_than_there_is_gives_all() -> None:
    rows, queries = data("random")
    index = VectorIndex(rows[:7])
    assert sorted(index.search(queries[0], 100).indices.tolist()) == list(range(7))


def test_quantising_loses_what_it_says() -> None:
    rows, _ = data("spikes")
    rows[3] = 0
    whole, step, lost = quantise(rows)
    true = np.linalg.norm(rows.astype(np.float64) - whole * step[:, None].astype(np.float64), axis=1)
    assert (true <= lost * (1 + 1e-5) + 1e-6 * np.linalg.norm(rows, axis=1)).all()
    assert (lost <= np.sqrt(DIMENSIONS) * step / 2 * 1.001).all()


def test_products_are_whole_numbers() -> None:
    """Against int64, at the extremes too."""
    draw = np.random.default_rng(2)
    rows = draw.integers(-127, 128, (500, 64), dtype=np.int8)
    rows[0] = 127
    scan = Int8Scan(iter([rows[:300], rows[300:]]), threads=1)
    for query in (draw.integers(-127, 128, 64, dtype=np.int8), np.full(64, -127, np.int8)):
        assert scan.products(query).tolist() == (rows.astype(np.int64) @ query.astype(np.int64)).tolist()


def test_bad_vectors_are_refused() -> None:
    rows, _ = data("random")
    index = VectorIndex(rows)
    with pytest.raises(InvalidRequest, match=f"query have 3 numbers, those of the index {DIMENSIONS}"):
        index.search([1.0, 2.0, 3.0], 1)
    with pytest.raises(UnreadableInput, match="query is a zero vector"):
        index.search([0.0] * DIMENSIONS, 1)
    broken = rows.copy()
    broken[17] = 0
    with pytest.raises(UnreadableInput, match=r"vectors\[17\] is a zero vector"):
        VectorIndex(broken)
    broken[17] = np.nan
    with pytest.raises(UnreadableInput, match=r"vectors\[17\] has a number"):
        VectorIndex(broken)
