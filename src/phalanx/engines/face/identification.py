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


def required_match_rate(false_positive_rate: float, compared: int) -> float:
    """Return the false match rate at which a search among so many faces has that false positive rate: the inverse."""
    if compared < 1 or false_positive_rate >= 1:
        return 1.0
    return -math.expm1(math.log1p(-false_positive_rate) / compared)


def rate_bound(count: int, trials: int) -> float:
    """Return the upper end of the 95 % interval of a rate that was seen `count` times in `trials`.

    The rule of three, 3 / trials, for none; else Wilson's score interval (1927), one-sided.
    """
    if trials < 1:
        return 1.0
    if count == 0:
        return min(1.0, 3 / trials)
    z = 1.6449
    seen, spread = count / trials, z * z / trials
    middle = seen + spread / 2
    return min(1.0, (middle + z * math.sqrt(seen * (1 - seen) / trials + spread / (4 * trials))) / (1 + spread))
