"""What a threshold means for a search among many faces."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

LFW_PAIRS: Final = 6000
LFW_IMPOSTORS: Final = 3000
"""Pairs of different persons among those of the protocol of Labeled Faces in the Wild (Huang et al., 2007)."""


class OperatingPoint(NamedTuple):
    """A threshold with what was published of it: the share of LFW's 6,000 pairs that it puts on the right side."""

    threshold: float
    accuracy: float

    @property
    def false_match_rate(self) -> float:
        """The most that the false match rate can be: as if all errors were pairs of different persons."""
        return (1 - self.accuracy) * LFW_PAIRS / LFW_IMPOSTORS


PUBLISHED: Final = {
    # davisking/dlib, examples/dnn_face_recognition_ex.cpp
    "dlib-resnet-v1": OperatingPoint(0.6, 0.9938),
    # opencv/opencv_zoo, models/face_recognition_sface
    "sface": OperatingPoint(0.363, 0.9940),
}
"""By the model's name in the catalogue."""


def published_rate(model: str, threshold: float) -> float | None:
    """Return the most that a model's false match rate is at a threshold, 0 to 1; None where nothing was published."""
    point = PUBLISHED.get(model)
    return point.false_match_rate if point is not None and math.isclose(point.threshold, threshold) else None


def false_positive_rate(false_match_rate: float, compared: int) -> float:
    """Return how often a search for somebody who is not there finds somebody, 0 to 1 (FPIR in ISO/IEC 19795-1).

    `compared` is with how many faces. 1 − (1 − FMR)^N: the binomial model of Grother and Phillips, "Models of large
    population recognition performance" (CVPR 2004), which takes the comparisons as independent. They are not quite, since
    some persons look like many, so it is an estimate.
    """
    if false_match_rate >= 1:
        return 1.0 if compared else 0.0
    return -math.expm1(compared * math.log1p(-false_match_rate))
