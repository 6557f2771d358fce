"""A list of operations on one image: one decode, one pass, one encode."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence

from phalanx.contract.images import (
    Align,
    Convert,
    ImageFormat,
    ImageMetadata,
    ImageQuality,
    ProcessResult,
    Resize,
    Step,
    Tensor,
)
from phalanx.engines.face.align import TEMPLATES, align
from phalanx.engines.face.facts import Keypoints
from phalanx.engines.image.decode import Decoded, Pixels, decode
from phalanx.engines.image.encode import QUALITY, encode, stored_format, to_tensor
from phalanx.engines.image.geometry import crop, resize, rotate, rotated_size, scaled_size
from phalanx.engines.image.header import Header, read_header
from phalanx.engines.image.quality import measure_quality
from phalanx.errors import InvalidRequest, TooLarge

LEAST_SOUGHT = 1024
"""Pixels of the longer side in which a face is sought."""

SIDES_ALIGNED = 14
"""Longer sides of an image in those of a chip: the smallest face that is found is then enlarged by little."""


def process(
    data: bytes, steps: Sequence[Step], *, max_pixels: int, return_image: bool = True, header: Header | None = None
) -> Generator[Pixels, Keypoints, ProcessResult]:
    """Run `steps` in order over an image; return what was asked for.

    For every `align` it yields the picture as it is then, and is sent the landmarks of the face that is meant.

    Where the first thing asked of the pixels is to shrink them, a JPEG is decoded at the reduced size that suffices.
    `header` is that of the same data where it was read already.
    Raises what `decode` raises, `InvalidRequest` for a step that cannot be done, `TooLarge` for a picture that grows past
    `max_pixels`.
    """
    check_steps(steps)
    header = header or read_header(data, max_pixels=max_pixels)
    side = sufficient_side(header, steps)
    # No name is given to what is decoded, or it would stay in memory until the end.
    canvas = Canvas(
        decode(data, max_pixels=max_pixels, max_side=side, header=header, as_srgb=True), len(data), max_pixels
    )
    for step in steps:
        if step.align is not None:
            canvas.align(step.align, (yield canvas.pixels))
        else:
            canvas.apply(step)
    return canvas.result(return_image=return_image)


def check_steps(steps: Sequence[Step]) -> None:
    """Raise `InvalidRequest` unless every step says exactly one thing."""
    for place, step in enumerate(steps):
        named = [name for name in step.__struct_fields__ if getattr(step, name) is not None]
        if len(named) != 1:
            raise InvalidRequest(
                f"operation {place} names {' and '.join(named) or 'nothing'}; an operation is one of "
                f"{', '.join(step.__struct_fields__)}",
                param="operations",
            )


def sufficient_side(header: Header, steps: Sequence[Step]) -> int | None:
    """Return the longer side that a decode must have to serve `steps`, or None when they need every pixel.

    Twice what is asked for: where a side is no multiple of the divisor, the reduced picture is off by up to one of its pixels.
    """
    first = next((step for step in steps if step.metadata is None and step.convert is None), None)
    if first is not None and first.align is not None:
        return max(LEAST_SOUGHT, SIDES_ALIGNED * _chip_size(first.align))
    if first is None or first.resize is None:
        return None
    width, height = header.upright_size
    wanted = scaled_size((width, height), first.resize)
    return math.ceil(2 * max(wanted[0] / width, wanted[1] / height) * max(width, height))


class Canvas:
    """An image on its way through the steps."""

    def __init__(self, decoded: Decoded, size_bytes: int, max_pixels: int) -> None:
        self._header = decoded.header
        self._size_bytes = size_bytes
        self._max_pixels = max_pixels
        self._pixels: Pixels = decoded.pixels
        self._original_size: tuple[int, int] | None = decoded.header.upright_size
        self._format: ImageFormat = stored_format(decoded.header.format)
        self._encoding_quality = QUALITY
        self._metadata: ImageMetadata | None = None
        self._quality: ImageQuality | None = None
        self._tensor: Tensor | None = None

    @property
    def pixels(self) -> Pixels:
        """The picture as it is."""
        return self._pixels

    def align(self, wanted: Align, keypoints: Keypoints) -> None:
        """Keep the chip of a face. Raises `InvalidRequest` for landmarks that coincide."""
        size = _chip_size(wanted)
        self._check_pixels(size, size)
        self._replace(align(self._pixels, keypoints, TEMPLATES[wanted.template].scaled(size)).image)

    def apply(self, step: Step) -> None:
        """Do one step, other than `align`."""
        if step.resize is not None:
            self._resize(step.resize)
        elif step.crop is not None:
            self._replace(crop(self._pixels, step.crop))
        elif step.rotate is not None:
            self._check_pixels(*rotated_size((self._pixels.shape[1], self._pixels.shape[0]), step.rotate))
            self._replace(rotate(self._pixels, step.rotate))
        elif step.normalize is not None:
            self._tensor = to_tensor(self._pixels, step.normalize)
        elif step.quality is not None:
            self._quality = measure_quality(self._pixels)
        elif step.metadata is not None:
            self._metadata = describe(self._header, self._size_bytes)
        elif step.convert is not None:
            self._convert(step.convert)

    def result(self, *, return_image: bool) -> ProcessResult:
        """Encode, and return everything that was asked for."""
        image = encode(self._pixels, self._format, quality=self._encoding_quality) if return_image else None
        return ProcessResult(
            image=image, format=self._format, width=self._pixels.shape[1], height=self._pixels.shape[0],
            metadata=self._metadata, quality=self._quality, tensor=self._tensor,
        )  # fmt: skip

    def _resize(self, wanted: Resize) -> None:
        source = self._original_size or (self._pixels.shape[1], self._pixels.shape[0])
        self._check_pixels(*scaled_size(source, wanted))
        self._replace(resize(self._pixels, wanted, source=source))

    def _replace(self, pixels: Pixels) -> None:
        self._check_pixels(pixels.shape[1], pixels.shape[0])
        self._pixels, self._original_size = pixels, None

    def _check_pixels(self, width: int, height: int) -> None:
        if width * height > self._max_pixels:
            raise TooLarge(
                f"the picture would have {width} × {height} pixels, {self._max_pixels} are allowed", param="operations"
            )

    def _convert(self, wanted: Convert) -> None:
        self._format, self._encoding_quality = wanted.format, wanted.quality


def _chip_size(wanted: Align) -> int:
    return wanted.size or TEMPLATES[wanted.template].side


def describe(header: Header, size_bytes: int) -> ImageMetadata:
    """Return what may be told of an image's header."""
    width, height = header.upright_size
    return ImageMetadata(
        format=header.format, width=width, height=height, orientation=header.orientation, bits=header.bits,
        has_alpha=header.has_alpha, frames=header.frames, size_bytes=size_bytes,
    )  # fmt: skip
