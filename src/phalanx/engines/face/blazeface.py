"""Reading the outputs of BlazeFace: anchors, decoding, and overlapping finds made one.

After Bazarevsky et al., "BlazeFace: Sub-millisecond Neural Face Detection on Mobile GPUs" (2019), with the constants of
MediaPipe 0.10.21's graphs. Coordinates in this module are parts of the network's square, 0 to 1.
"""

from __future__ import annotations

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
    clipped = np.clip(logits[:, 0].astype(np.float64), -LARGEST_LOGIT, LARGEST_LOGIT)
    scores = (1.0 / (1.0 + np.exp(-clipped))).astype(np.float32)
    kept = np.flatnonzero(scores >= min_score)
    raw, at = regressors[kept] / np.float32(layout.size), anchors[kept]
    centres, halves = raw[:, :2] + at, raw[:, 2:4] / 2
    keypoints = raw[:, 4:].reshape(-1, KEYPOINTS, 2) + at[:, None]
    return Candidates(np.concatenate((centres - halves, centres + halves), axis=1), keypoints, scores[kept])


def merge(found: Candidates) -> Candidates:
    """Make one of those that overlap, the best first: their mean, weighted by score; the best one's score.

    Plain suppression would keep the best box alone; the mean moves less from one picture to the next.
    """
    left = np.argsort(-found.scores, kind="stable")
    boxes, keypoints, scores = [], [], []
    while left.size:
        overlaps = _overlaps(found.boxes[left[0]], found.boxes[left]) > OVERLAP
        overlaps[0] = True  # also where a box has no area
        members, left = left[overlaps], left[~overlaps]
        weights = found.scores[members] / found.scores[members].sum()
        boxes.append(np.tensordot(weights, found.boxes[members], 1))
        keypoints.append(np.tensordot(weights, found.keypoints[members], 1))
        scores.append(found.scores[members[0]])
    if not scores:
        return found
    return Candidates(np.stack(boxes), np.stack(keypoints), np.array(scores, dtype=np.float32))


def _overlaps(one: Floats, others: Floats) -> Floats:
    """Return the intersection over union of a box with others `[n, 4]`."""
    least, most = np.maximum(one[:2], others[:, :2]), np.minimum(one[2:], others[:, 2:])
    shared = np.prod(np.clip(most - least, 0, None), axis=1)
    union = np.prod(one[2:] - one[:2]) + np.prod(others[:, 2:] - others[:, :2], axis=1) - shared
    result: Floats = shared / np.maximum(union, np.float32(1e-12))
    return result
