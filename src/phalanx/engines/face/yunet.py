"""Reading the outputs of YuNet: priors, decoding, and overlapping finds told apart.

After Wu, Peng and Yu, "YuNet: A Tiny Millisecond-level Face Detector" (Machine Intelligence Research, 2023), as OpenCV's
`FaceDetectorYN` reads `face_detection_yunet_2023mar.onnx` of OpenCV Zoo (`modules/objdetect/src/face_detect.cpp`). Each cell
of strides 8, 16 and 32 has one prior, its left top corner. Coordinates in this module are pixels of the network's square.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from phalanx.engines.face.facts import Keypoints

Floats = npt.NDArray[np.float32]

STRIDES: Final = (8, 16, 32)
WIDTHS: Final = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
"""What the network gives for each cell, in outputs named after it and the stride: `cls_8` to `kps_32`."""

OVERLAP: Final = 0.3
"""Of two boxes whose intersection is more than this part of their union the surer one is kept (`nms_threshold`)."""
MOST: Final = 5000
"""The surest finds that are looked at (`top_k`)."""

SIDE: Final = 640
"""Pixels of the square where the graph leaves that free: those that the file of OpenCV Zoo was exported for."""


class Finds(NamedTuple):
    """Faces, the surest first: `boxes` `[n, 4]` as left, top, width, height; `points` `[n, 5, 2]`; `scores` `[n]`.

    Points are the person's right eye, left eye, the tip of the nose, the right and the left corner of the mouth: as seen in
    the image, the left one of each pair comes first.
    """

    boxes: Floats
    points: Floats
    scores: Floats


def output_shapes(side: int) -> dict[str, tuple[int, int, int]]:
    """Return the outputs of a network that looks at a square of `side` pixels, by name."""
    return {
        f"{name}_{stride}": (1, (side // stride) ** 2, width) for stride in STRIDES for name, width in WIDTHS.items()
    }


def decode(outputs: Mapping[str, Floats], side: int, min_score: float) -> Finds:
    """Return the faces in a square of `side` pixels of at least `min_score`, of those that overlap the surest."""
    found = [_decode_stride(outputs, side // stride, stride, min_score) for stride in STRIDES]
    boxes, points, scores = (np.concatenate(parts) for parts in zip(*found, strict=True))
    kept = _apart(boxes, scores, min_score)
    return Finds(boxes[kept], points[kept], scores[kept])


def _decode_stride(outputs: Mapping[str, Floats], cells: int, stride: int, min_score: float) -> Finds:
    cls, obj, bbox, kps = (outputs[f"{name}_{stride}"][0] for name in WIDTHS)
    scores = np.sqrt(np.clip(cls[:, 0], 0, 1) * np.clip(obj[:, 0], 0, 1))
    kept = np.flatnonzero(scores >= np.float32(min_score))
    rows, columns = np.divmod(kept, cells)
    at, size = np.stack((columns, rows), axis=1).astype(np.float32), np.float32(stride)
    centres, sizes = (at + bbox[kept, :2]) * size, np.exp(bbox[kept, 2:]) * size
    points = (kps[kept].reshape(-1, 5, 2) + at[:, None]) * size
    return Finds(np.concatenate((centres - sizes / 2, sizes), axis=1), points, scores[kept])


def _apart(boxes: Floats, scores: Floats, min_score: float) -> npt.NDArray[np.intp]:
    """Return which boxes are kept, the surest first; they are compared in whole pixels, as OpenCV does."""
    if len(scores) < 2:
        return np.arange(len(scores))
    finite = np.isfinite(boxes).all(axis=1, keepdims=True)
    whole = np.where(finite, np.clip(boxes, -1e6, 1e6), 0).astype(np.int32)
    kept = cv2.dnn.NMSBoxes(whole.tolist(), scores.tolist(), min_score, OVERLAP, 1.0, MOST)
    return np.asarray(kept, dtype=np.intp).reshape(-1)


def six_points(box: Floats, points: Keypoints) -> Keypoints:
    """Return landmarks in the order of `facts`, `[6, 2]`, of YuNet's five, `[5, 2]`.

    The middle of the mouth is that between its corners. YuNet sees no ears: they are put where the line of the eyes leaves
    the box, and nothing is read off them.
    """
    middle = (points[3] + points[4]) / 2
    level = (points[0, 1] + points[1, 1]) / 2
    ears = np.array([(box[0], level), (box[0] + box[2], level)], dtype=np.float32)
    return np.concatenate((points[:3], middle[None], ears)).astype(np.float32, copy=False)
