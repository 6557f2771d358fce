"""Faces: detection, embedding and comparison."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from phalanx.contract.images import ImageInput, ImageInputs
from phalanx.contract.text import ItemError
from phalanx.contract.vector import Embedding

MIN_CONFIDENCE = 0.2
"""The least that may be asked for: below it, noise counts as a face."""
Score = Annotated[float, Meta(ge=MIN_CONFIDENCE, le=1)]
Detector = Annotated[
    str,
    Meta(
        min_length=1, max_length=100, description="A way to look: auto, full, short, tiled; or a detector's name.",
        examples=["auto", "full", "short", "tiled"],
    ),
]  # fmt: skip
Point = Annotated[tuple[float, float], Meta(description="x and y in pixels of the upright image.")]
QualityReason = Literal["blurred", "dark", "bright", "turned", "nodding", "small", "cut_off", "uncertain"]


class DetectRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `image`, or up to 32 `images`, to find faces in.

    `max_faces` keeps the largest. `detector` says how the image is searched. `full` sees faces from a fifteenth of the image's
    longer side on, and half of those of a twentieth. `short` is for near faces, such as selfies. `auto` is `full`;
    where that sees no face, `short`, then `full` with the image upside down; and where there is no face or only small
    ones, `full` over halves of the image too, and over thirds where the halves show still smaller ones, which sees
    faces from a twenty-fifth on. `tiled` is `full` over the image and over small parts of it: it sees faces from
    about 24 pixels in an image of at most 2,048, for fifty times the work. The name of a detector that the operator
    added, such as a YuNet, uses that one.
    """

    image: ImageInput | None = None
    images: ImageInputs | None = None
    min_confidence: Score = 0.5
    max_faces: Annotated[int, Meta(ge=1, le=1000)] | None = None
    detector: Detector = "auto"


class BoundingBox(Struct, frozen=True, kw_only=True):
    """A rectangle in pixels of the upright image: its left top corner and its size. It may reach beyond the image."""

    x: float
    y: float
    width: float
    height: float


class Landmarks(Struct, frozen=True, kw_only=True):
    """Five points of a face. Left and right are as seen in the image, not the person's."""

    left_eye: Point
    right_eye: Point
    nose: Point
    left_mouth: Point
    right_mouth: Point


class QualityMeasures(Struct, frozen=True, kw_only=True):
    """How good the picture of a face is. Measures are 0 (useless) to 1; the pose is in degrees.

    `yaw` is positive when the nose points to the right border, `pitch` when it points down; both are estimates from six
    landmarks. `reasons` names what is not good enough.
    """

    sharpness: float
    exposure: float
    pose: float
    size: float
    completeness: float
    detection: float
    yaw: float
    pitch: float
    reasons: list[QualityReason]


class FoundFace(Struct, frozen=True, kw_only=True):
    """A face. `confidence` is the detector's, 0 to 1; `roll` is how far the head leans clockwise, in degrees.

    `quality`, 0 to 1, is the weighted geometric mean of the `measures`: sharpness 0.25, pose and size 0.2, completeness
    0.15, exposure and detection 0.1.
    """

    bbox: BoundingBox
    landmarks: Landmarks
    confidence: float
    roll: float
    quality: float
    measures: QualityMeasures


class DetectResult(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The faces of one image from left to right, with the upright image's size in pixels; or the error for this image.

    `cached` says whether the answer came from the cache.
    """

    faces: list[FoundFace] | None = None
    width: int | None = None
    height: int | None = None
    cached: bool | None = None
    error: ItemError | None = None


class DetectResponse(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """For one `image`, its `faces` from left to right; for `images`, the `results` in their order.

    `landmarks_estimated` names the landmarks that the detector does not see, but that are estimated from others.
    """

    model: str
    landmarks_estimated: list[str]
    faces: list[FoundFace] | None = None
    width: int | None = None
    height: int | None = None
    cached: bool | None = None
    results: list[DetectResult] | None = None
    simulated: bool = False


class EmbedFacesRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `image`, or up to 32 `images`, whose faces are to become vectors.

    `face` is `largest`, `all`, or a number: faces count from left to right, from 0. With `aligned` the image is a face that was
    already cut out as the model wants it: nothing is detected, and it is scaled to the model's size.
    """

    image: ImageInput | None = None
    images: ImageInputs | None = None
    face: Literal["largest", "all"] | Annotated[int, Meta(ge=0)] = "largest"
    aligned: bool = False
    model: str | None = None
    min_confidence: Score = 0.5
    detector: Detector = "auto"


class EmbeddedFace(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A face's vector, `[d]` float32 as the network gives it, with the face; an aligned image has no box."""

    embedding: Embedding
    quality: float
    confidence: float | None = None
    bbox: BoundingBox | None = None
    landmarks: Landmarks | None = None


class EmbedFacesResult(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The vectors of one image's faces, or the error for this image; `cached` as in `DetectResult`."""

    faces: list[EmbeddedFace] | None = None
    cached: bool | None = None
    error: ItemError | None = None


class EmbedFacesResponse(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """For one `image`, the `embedding` of one face, or all its `faces` where `face` is `all`; for `images`, the `results`.

    Two faces count as one person's when their distance is at most `threshold` (metric euclidean), or their cosine at least that.
    `threshold_meaning` says what the threshold was measured on. `landmarks_estimated` is as in `DetectResponse`; aligned images
    have none.
    """

    model: str
    metric: Literal["euclidean", "cosine"]
    threshold: float
    threshold_meaning: str
    dimensions: int
    landmarks_estimated: list[str] | None = None
    embedding: Embedding | None = None
    quality: float | None = None
    confidence: float | None = None
    bbox: BoundingBox | None = None
    faces: list[EmbeddedFace] | None = None
    cached: bool | None = None
    results: list[EmbedFacesResult] | None = None
    simulated: bool = False


class CompareFacesRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Two images; the largest face of each is compared."""

    images: Annotated[list[ImageInput], Meta(min_length=2, max_length=2)]
    model: str | None = None
    min_confidence: Score = 0.5
    detector: Detector = "auto"


class CompareFacesResponse(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whether two faces are one person's: `same` is true when `distance` is at most `threshold`.

    The distance is Euclidean; where the metric is cosine it is 1 minus the cosine. The threshold is given in the same terms.
    """

    distance: float
    threshold: float
    threshold_meaning: str
    metric: Literal["euclidean", "cosine"]
    same: bool
    faces: list[FoundFace]
    model: str
    simulated: bool = False
