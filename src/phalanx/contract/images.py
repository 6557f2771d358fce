"""Images: how one is sent, and what can be done with it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from phalanx.contract.text import ItemError

MAX_IMAGES = 32
"""Images in one request."""
MAX_STEPS = 16
MAX_SIDE = 16_384
"""Pixels of a side that may be asked for."""

ImageInput = Annotated[
    Any,
    Meta(
        description="JPEG, PNG, WebP or BMP: base64, a data URL, or an http(s) URL on a host of IMAGE_URL_ALLOW.",
        extra_json_schema={"type": "string"},
    ),
]
"""A string of one of those forms, or the file's bytes where the body is the image. msgspec cannot decode their union,
so the field is `Any` to it, and intake checks it."""

ImageInputs = Annotated[list[ImageInput], Meta(min_length=1, max_length=MAX_IMAGES)]
ImageFormat = Literal["jpeg", "png", "webp", "bmp"]
Side = Annotated[int, Meta(ge=1, le=MAX_SIDE)]
Offset = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Channels = Annotated[tuple[float, float, float], Meta(description="Red, green, blue.")]


class Resize(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Scale to `width` and `height`; one that is left out follows from the shape of the image.

    fit: as large as lies within both; fill: covers both, what stands out is cut off evenly; exact: both, whatever the
    shape. Small images are enlarged.
    """

    width: Side | None = None
    height: Side | None = None
    mode: Literal["fit", "fill", "exact"] = "fit"


class Crop(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Keep a rectangle, in pixels from the left top corner. It must lie within the image."""

    x: Offset
    y: Offset
    width: Side
    height: Side


class Rotate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Turn clockwise by `angle` degrees. The picture grows to hold all of it; new corners are white."""

    angle: Annotated[float, Meta(ge=-360, le=360)]


class Align(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Cut the largest face out, upright and in the place and size that a network of face vectors wants, as a square.

    `template` is dlib (150 pixels a side) or arcface (112), unless `size` says how many. What lies outside the picture is
    black.
    """

    template: Literal["dlib", "arcface"]
    size: Annotated[int, Meta(ge=16, le=1024)] | None = None


class Normalize(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Give the image as a tensor as well: `(pixel / 255 - mean) / std` for each channel, red first."""

    mean: Channels = (0.0, 0.0, 0.0)
    std: Channels = (1.0, 1.0, 1.0)
    layout: Literal["chw", "hwc"] = "chw"


class Measuring(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Report the quality of the image as it is at this step."""


class Describing(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Report what the file says of itself."""


class Convert(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The format of the answer's image. `quality`, 1 to 100, is for JPEG and WebP."""

    format: Literal["jpeg", "png", "webp"]
    quality: Annotated[int, Meta(ge=1, le=100)] = 90


class Step(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One thing to do: exactly one of the fields."""

    resize: Resize | None = None
    crop: Crop | None = None
    rotate: Rotate | None = None
    align: Align | None = None
    normalize: Normalize | None = None
    quality: Measuring | None = None
    metadata: Describing | None = None
    convert: Convert | None = None


Steps = Annotated[list[Step], Meta(max_length=MAX_STEPS)]


class ProcessRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `image`, or up to 32 `images`, and what to do with each, in order. Without `convert` the format stays; BMP becomes PNG.

    What comes back is upright and sRGB: an embedded profile of colours is applied.

    With `return_image` false only the reports are given, and nothing is encoded.
    """

    image: ImageInput | None = None
    images: ImageInputs | None = None
    operations: Steps = []
    return_image: bool = True


class Measure(Struct, frozen=True, kw_only=True):
    """A measured `value` in its own unit, and its `score`, 0 (useless) to 1."""

    value: float
    score: float


QualityReason = Literal["blurred", "too_dark", "too_bright", "low_contrast", "too_small"]


class ImageQuality(Struct, frozen=True, kw_only=True):
    """How good an image is for recognising what is on it. `overall` is the geometric mean of the four scores.

    Values: sharpness is the variance of the Laplacian of the luma; exposure its mean and contrast its standard
    deviation, both as a share of white; size is the shorter side in pixels.
    """

    overall: float
    sharpness: Measure
    exposure: Measure
    contrast: Measure
    size: Measure
    reasons: list[QualityReason]


class ImageMetadata(Struct, frozen=True, kw_only=True):
    """What the file says of its picture; nothing of where, when and with what it was taken. `width` and `height` are the upright image's; `orientation` is EXIF's, 1 to 8.

    `bits` are those of a channel; `frames` of an animation, of which the first is used.
    """

    format: ImageFormat
    width: int
    height: int
    orientation: int
    bits: int
    has_alpha: bool
    frames: int
    size_bytes: int


class Tensor(Struct, frozen=True, kw_only=True):
    """Numbers in row order: `data` is their little-endian bytes, in JSON as base64."""

    data: bytes
    shape: tuple[int, int, int]
    dtype: Literal["float32"]
    layout: Literal["chw", "hwc"]


class ProcessResult(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one image: `image` is the file in `format`, in JSON as base64; `width` and `height` are its own.

    Where `error` is set nothing else is.
    """

    image: bytes | None = None
    format: ImageFormat | None = None
    width: int | None = None
    height: int | None = None
    metadata: ImageMetadata | None = None
    quality: ImageQuality | None = None
    tensor: Tensor | None = None
    error: ItemError | None = None


class ProcessResponse(ProcessResult, frozen=True, kw_only=True, omit_defaults=True):
    """The result of one `image`; of `images`, `results` in their order."""

    results: list[ProcessResult] | None = None
    simulated: bool = False
