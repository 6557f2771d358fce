"""Reading the outputs of BlazeFace: anchors, decoding, and overlapping finds made one.

After Bazarevsky et al., "BlazeFace: Sub-millisecond Neural Face Detection on Mobile GPUs" (2019), with the constants of
MediaPipe 0.10.21's graphs. Coordinates in this module are parts of the network's square, 0 to 1.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

KEYPOINTS = 6
"""In the order of `facts.py`: BlazeFace names them by the person's own sides, right eye first."""

OVERLAP = 0.3
"""Boxes whose intersection is more than this part of their union are of one face (`min_suppression_threshold`)."""

LARGEST_LOGIT = 100.0
"""Scores are clipped here (`score_clipping_thresh`); they come down to -727, where `exp` overflows."""

MARGIN = 1e-3
"""By how much a logit may be too low and its score still be worked out: more than float32 rounds by."""


class Layout(NamedTuple):
    """How a network covers its square of `size` pixels: cells of each stride, and anchors in each cell."""

    size: int
    strides: tuple[int, ...]
    anchors_a_cell: tuple[int, ...]

    def anchors(self) -> Floats:
        """Return the centres of all anchors `[n, 2]`, in the order of the network's outputs: rows, columns, anchors."""
        parts = []
        for stride, count in zip(self.strides, self.anchors_a_cell, strict=True):
            cells = -(-self.size // stride)
            middles = (np.arange(cells, dtype=np.float32) + 0.5) / cells
            y, x = np.meshgrid(middles, middles, indexing="ij")
            parts.append(np.repeat(np.stack((x, y), axis=-1).reshape(-1, 2), count, axis=0))
        return np.concatenate(parts)


FULL_RANGE = Layout(192, (4,), (1,))
SHORT_RANGE = Layout(128, (8, 16), (2, 6))
"""Three layers of stride 16 with two anchors each stand as one with six."""


class Candidates(NamedTuple):
    """Finds of one image: `boxes` `[n, 4]` as left, top, right, bottom; `keypoints` `[n, 6, 2]`; `scores` `[n]`."""

    boxes: Floats
    keypoints: Floats
    scores: Floats


def decode(layout: Layout, anchors: Floats, outputs: list[Floats], min_score: float) -> Candidates:
    """Return what the network found with at least `min_score`, in the order of its anchors.

    `outputs` are the regressors `[1, n, 16]` and the logits `[1, n, 1]`, in either order.
    """
    regressors, logits = sorted((output[0] for output in outputs), key=lambda rows: -rows.shape[-1])
    # Most of the thousands of anchors see nothing: scores are worked out for those that may have enough alone.
    likely = np.flatnonzero(logits[:, 0] >= _logit(min_score))
    clipped = np.clip(logits[likely, 0].astype(np.float64), -LARGEST_LOGIT, LARGEST_LOGIT)
    scores = (1.0 / (1.0 + np.exp(-clipped))).astype(np.float32)
    enough = scores >= min_score
    kept, scores = likely[enough], scores[enough]
    raw, at = regressors[kept] / np.float32(layout.size), anchors[kept]
    centres, halves = raw[:, :2] + at, raw[:, 2:4] / 2
    keypoints = raw[:, 4:].reshape(-1, KEYPOINTS, 2) + at[:, None]
    return Candidates(np.concatenate((centres - halves, centres + halves), axis=1), keypoints, scores)


def merge(found: Candidates) -> Candidates:
    """Make one of those that overlap, the best first: their mean, weighted by score; the best one's score.

    Plain suppression would keep the best box alone; the mean moves less from one picture to the next.
    """
    if len(found.scores) < 2:
        return found
    left = np.argsort(-found.scores, kind="stable")
    shapes = np.concatenate((found.boxes, found.keypoints.reshape(-1, 2 * KEYPOINTS)), axis=1)
    means, scores = [], []
    while left.size:
        overlaps = _overlaps(found.boxes[left[0]], found.boxes[left]) > OVERLAP
        overlaps[0] = True  # also where a box has no area
        members, left = left[overlaps], left[~overlaps]
        weights = found.scores[members]
        means.append(weights @ shapes[members] / weights.sum())
        scores.append(found.scores[members[0]])
    merged = np.stack(means)
    return Candidates(merged[:, :4], merged[:, 4:].reshape(-1, KEYPOINTS, 2), np.array(scores, dtype=np.float32))


def _logit(score: float) -> float:
    """Return a logit below which no score reaches `score`, rounded as it may be."""
    if score <= MARGIN:
        return -math.inf
    score = min(score, 1 - MARGIN)
    return math.log(score / (1 - score)) - MARGIN


def _overlaps(one: Floats, others: Floats) -> Floats:
    """Return the intersection over union of a box with others `[n, 4]`."""
    sides = np.minimum(one[2:], others[:, 2:]) - np.maximum(one[:2], others[:, :2])
    np.maximum(sides, 0, out=sides)
    shared = sides[:, 0] * sides[:, 1]
    whole = others[:, 2:] - others[:, :2]
    union = (one[2] - one[0]) * (one[3] - one[1]) + whole[:, 0] * whole[:, 1] - shared
    result: Floats = shared / np.maximum(union, np.float32(1e-12))
    return result
