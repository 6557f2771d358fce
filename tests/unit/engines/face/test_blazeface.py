"""Anchors, decoding and merging, on numbers made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from phalanx.engines.face.blazeface import FULL_RANGE, SHORT_RANGE, Candidates, decode, merge


def test_anchors_cover_the_square_in_the_order_of_the_outputs() -> None:
    """Rows, then columns, then the anchors of a cell; strides one after the other."""
    full, short = FULL_RANGE.anchors(), SHORT_RANGE.anchors()
    assert (full.shape, short.shape) == ((2304, 2), (896, 2))
    assert full[1].tolist() == pytest.approx([1.5 / 48, 0.5 / 48])
    assert full[48].tolist() == pytest.approx([0.5 / 48, 1.5 / 48])
    assert np.array_equal(short[0], short[1])
    assert short[512].tolist() == pytest.approx([0.5 / 8, 0.5 / 8])
    assert np.array_equal(short[512], short[517])


def outputs(logits: dict[int, float], raw: list[float]) -> list[np.ndarray]:
    regressors = np.zeros((1, 2304, 16), np.float32)
    scores = np.full((1, 2304, 1), -727.0, np.float32)
    for at, logit in logits.items():
        scores[0, at, 0] = logit
        regressors[0, at, : len(raw)] = raw
    return [regressors, scores]


def test_boxes_and_keypoints_are_relative_to_their_anchor() -> None:
    """In pixels of the network's square; the outputs may come in either order."""
    found = decode(FULL_RANGE, FULL_RANGE.anchors(), outputs({0: 2.0}, [19.2, 0, 38.4, 38.4, 96, 192])[::-1], 0.5)
    centre = 0.5 / 48
    assert found.boxes[0].tolist() == pytest.approx([centre, centre - 0.1, centre + 0.2, centre + 0.1])
    assert found.keypoints[0, 0].tolist() == pytest.approx([centre + 0.5, centre + 1.0])
    assert found.scores.tolist() == pytest.approx([1 / (1 + np.exp(-2.0))])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("logit", "score"), [(-727.0, 0.0), (727.0, 1.0)])
def test_logits_far_out_do_not_overflow(logit: float, score: float) -> None:
    found = decode(FULL_RANGE, FULL_RANGE.anchors(), outputs({5: logit}, []), 0.0)
    assert found.scores[5] == pytest.approx(score)
    assert len(found.scores) == 2304


def candidates(*rows: tuple[float, float]) -> Candidates:
    """Squares of side 0.2 by their left border and score, all landmarks at their left top corner."""
    boxes = np.array([[left, 0.1, left + 0.2, 0.3] for left, _ in rows], np.float32)
    keypoints = np.repeat(boxes[:, None, :2], 6, axis=1)
    return Candidates(boxes, keypoints, np.array([score for _, score in rows], np.float32))


def test_those_that_overlap_become_their_weighted_mean() -> None:
    """Plain suppression would give 0.14 as it is."""
    merged = merge(candidates((0.10, 0.6), (0.14, 0.9), (0.70, 0.5)))
    assert merged.scores.tolist() == pytest.approx([0.9, 0.5])
    assert merged.boxes[:, 0].tolist() == pytest.approx([(0.10 * 0.6 + 0.14 * 0.9) / 1.5, 0.70])
    assert merged.keypoints[0, :, 0].tolist() == pytest.approx([0.124] * 6)


def test_those_that_hardly_overlap_stay_apart() -> None:
    """0.1 of 0.3 is an intersection over union of a third; a little farther it is less than 0.3."""
    assert len(merge(candidates((0.10, 0.9), (0.20, 0.8))).scores) == 1
    assert len(merge(candidates((0.10, 0.9), (0.215, 0.8))).scores) == 2


def test_nothing_and_boxes_without_area() -> None:
    nothing = Candidates(np.zeros((0, 4), np.float32), np.zeros((0, 6, 2), np.float32), np.zeros(0, np.float32))
    assert len(merge(nothing).scores) == 0
    point = Candidates(np.zeros((2, 4), np.float32), np.zeros((2, 6, 2), np.float32), np.ones(2, np.float32))
    assert len(merge(point).scores) == 2


@pytest.mark.parametrize("least", [0.0, 0.0005, 0.2, 0.5, 0.9, 0.9995, 1.0])
def test_those_with_enough_are_those_that_all_scores_would_give(least: float) -> None:
    """Scores are worked out for likely anchors alone; at the threshold itself none is lost."""
    logits = np.random.default_rng(3).normal(0, 6, (1, 896, 1)).astype(np.float32)
    logits[0, :4, 0] = (np.log(least / (1 - least)) if 0 < least < 1 else 20.0), -120.0, 120.0, 0.0
    scores = (1 / (1 + np.exp(-np.clip(logits[0, :, 0].astype(np.float64), -100, 100)))).astype(np.float32)
    found = decode(SHORT_RANGE, SHORT_RANGE.anchors(), [np.zeros((1, 896, 16), np.float32), logits], least)
    assert np.array_equal(found.scores, scores[scores >= least])
