"""Rows about images."""

from __future__ import annotations

from phalanx.contract import images
from phalanx.operations.row import Body, Operation

DOT = (
    "iVBORw0KGgoAAAANSUhEUgAAAAQAAAAECAIAAAAmkwkpAAAAIElEQVQIHTXBQQEAAAABMdqIeBHF8rK5"
    "ROcSnUt0LtENrsYFpe51FUoAAAAASUVORK5CYII="
)
"""A PNG of 4 × 4 pixels."""

IMAGES: tuple[Operation, ...] = (
    Operation(
        name="images.process", request=images.ProcessRequest, response=images.ProcessResponse, scope="images",
        unit="image", http="POST /v1/images/process", grpc="Images/Process", job=True, computed=True,
        bodies=(Body.JSON, Body.IMAGE), answers=(Body.JSON, Body.IMAGE),
        run=lambda s, t, r: s.images.process(t, r),
        summary="Resize, crop, rotate, align, normalise, measure, describe and convert images.",
        examples=(
            {"image": DOT, "operations": [{"resize": {"width": 8}}, {"convert": {"format": "jpeg"}}]},
            {"images": [DOT], "operations": [{"metadata": {}}, {"quality": {}}], "return_image": False},
        ),
    ),
)  # fmt: skip
