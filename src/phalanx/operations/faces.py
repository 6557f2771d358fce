"""Rows about faces."""

from __future__ import annotations

from phalanx.contract import faces
from phalanx.operations.images import DOT
from phalanx.operations.row import Body, Operation

FACES: tuple[Operation, ...] = (
    Operation(
        name="faces.detect", request=faces.DetectRequest, response=faces.DetectResponse, scope="faces", unit="image",
        http="POST /v1/faces/detect", grpc="Faces/Detect", job=True, computed=True, cache="content",
        bodies=(Body.JSON, Body.IMAGE), run=lambda s, t, r: s.faces.detect(t, r), summary="Find the faces in an image.",
        examples=({"image": DOT}, {"images": [DOT, DOT], "detector": "short"}),
    ),
    Operation(
        name="faces.embed", request=faces.EmbedFacesRequest, response=faces.EmbedFacesResponse, scope="faces",
        unit="image", http="POST /v1/faces/embed", grpc="Faces/Embed", job=True, computed=True, cache="content",
        bodies=(Body.JSON, Body.IMAGE), run=lambda s, t, r: s.faces.embed(t, r),
        summary="Turn the faces of an image into vectors.",
        examples=({"image": DOT, "aligned": True},),
    ),
    Operation(
        name="faces.compare", request=faces.CompareFacesRequest, response=faces.CompareFacesResponse, scope="faces",
        unit="image", http="POST /v1/faces/compare", grpc="Faces/Compare", job=True, computed=True, cache="content",
        bodies=(Body.JSON, Body.IMAGE), run=lambda s, t, r: s.faces.compare(t, r),
        summary="Say whether the faces of two images are one person's.",
    ),
)  # fmt: skip
