"""aurum: the four services of a face application, `POST /api/…`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from phalanx.contract.faces import (
    MIN_CONFIDENCE,
    Detector,
    DetectRequest,
    DetectResponse,
    EmbedFacesRequest,
    EmbedFacesResponse,
)
from phalanx.contract.images import ImageInput, ImageInputs, ProcessRequest, ProcessResponse, Steps
from phalanx.contract.vectors import Metric, Numbers, Rows, VectorSimilarityRequest, VectorSimilarityResponse
from phalanx.edges.http.dialects import Dialect, DialectRoute
from phalanx.errors import PhalanxError
from phalanx.operations.images import DOT
from phalanx.services.ticket import Call


class AurumProblem(Struct, frozen=True):
    """`code` is one of the error table."""

    code: str
    message: str


class AurumError(Struct, frozen=True):
    """What went wrong, and the id that leads to the log."""

    error: AurumProblem
    request_id: str


class AurumProcessRequest(Struct, frozen=True, kw_only=True):
    """The row's request, but for fields that are not known, which are ignored."""

    image: ImageInput | None = None
    images: ImageInputs | None = None
    operations: Steps | None = None
    return_image: bool | None = True


def decode_process(wire: AurumProcessRequest) -> ProcessRequest:
    """Pass on what is known."""
    return ProcessRequest(
        image=wire.image,
        images=wire.images,
        operations=wire.operations or [],
        return_image=wire.return_image is not False,
    )


def encode_process(wire: AurumProcessRequest, response: ProcessResponse, call: Call) -> ProcessResponse:
    """The row's answer is the original's."""
    return response


Confidence = Annotated[float, Meta(ge=0, le=1)]


class AurumDetectRequest(Struct, frozen=True, kw_only=True):
    """The row's request, but for fields that are not known, which are ignored; any confidence may be asked for."""

    image: ImageInput | None = None
    images: ImageInputs | None = None
    min_confidence: Confidence | None = 0.5
    max_faces: Annotated[int, Meta(ge=1)] | None = None
    detector: Detector | None = "auto"


class AurumEmbedRequest(Struct, frozen=True, kw_only=True):
    """The row's request, but for fields that are not known, which are ignored."""

    image: ImageInput | None = None
    images: ImageInputs | None = None
    face: Literal["largest", "all"] | Annotated[int, Meta(ge=0)] | None = "largest"
    aligned: bool | None = False
    model: str | None = None
    min_confidence: Confidence | None = 0.5
    detector: Detector | None = "auto"


def _confidence(wire: AurumDetectRequest | AurumEmbedRequest) -> float:
    return max(MIN_CONFIDENCE, 0.5 if wire.min_confidence is None else wire.min_confidence)


def decode_detect(wire: AurumDetectRequest) -> DetectRequest:
    """Pass on what is known; a confidence below what tells a face from noise becomes that."""
    return DetectRequest(
        image=wire.image, images=wire.images, min_confidence=_confidence(wire),
        max_faces=wire.max_faces, detector=wire.detector or "auto",
    )  # fmt: skip


def encode_detect(wire: AurumDetectRequest, response: DetectResponse, call: Call) -> DetectResponse:
    """The row's answer is the original's."""
    return response


def decode_embed(wire: AurumEmbedRequest) -> EmbedFacesRequest:
    """As `decode_detect`."""
    return EmbedFacesRequest(
        image=wire.image, images=wire.images, face="largest" if wire.face is None else wire.face,
        aligned=bool(wire.aligned), model=wire.model or None, min_confidence=_confidence(wire),
        detector=wire.detector or "auto",
    )  # fmt: skip


def encode_embed(wire: AurumEmbedRequest, response: EmbedFacesResponse, call: Call) -> EmbedFacesResponse:
    """The row's answer is the original's."""
    return response


class AurumSimilarityRequest(Struct, frozen=True, kw_only=True):
    """The row's request, but for fields that are not known, which are ignored."""

    a: Numbers | None = None
    b: Numbers | None = None
    query: Numbers | None = None
    candidates: Rows | None = None
    top_k: Annotated[int, Meta(ge=1)] | None = None
    left: Rows | None = None
    right: Rows | None = None
    metric: Metric | None = "cosine"


def decode_similarity(wire: AurumSimilarityRequest) -> VectorSimilarityRequest:
    """Pass on what is known."""
    return VectorSimilarityRequest(
        a=wire.a, b=wire.b, query=wire.query, candidates=wire.candidates, top_k=wire.top_k, left=wire.left,
        right=wire.right, metric=wire.metric or "cosine",
    )  # fmt: skip


def encode_similarity(
    wire: AurumSimilarityRequest, response: VectorSimilarityResponse, call: Call
) -> VectorSimilarityResponse:
    """The row's answer is the original's."""
    return response


def envelope(error: PhalanxError, request_id: str) -> AurumError:
    """`{"error": {"code", "message"}, "request_id"}`."""
    return AurumError(AurumProblem(error.code, error.detail), request_id)


AURUM = Dialect(
    name="aurum",
    routes=(
        DialectRoute(
            "POST", "/api/process-image", "images.process", AurumProcessRequest, ProcessResponse, decode_process,
            encode_process, "Process an image (aurum).", ({"image": DOT, "operations": [{"resize": {"width": 2}}]},),
        ),
        DialectRoute(
            "POST", "/api/detect-face", "faces.detect", AurumDetectRequest, DetectResponse, decode_detect,
            encode_detect, "Find the faces in an image (aurum).", ({"image": DOT},),
        ),
        DialectRoute(
            "POST", "/api/extract-embedding", "faces.embed", AurumEmbedRequest, EmbedFacesResponse, decode_embed,
            encode_embed, "Turn the face in an image into a vector (aurum).", ({"image": DOT, "aligned": True},),
        ),
        DialectRoute(
            "POST", "/api/calculate-similarity", "vectors.similarity", AurumSimilarityRequest, VectorSimilarityResponse,
            decode_similarity, encode_similarity, "Compare vectors (aurum).", ({"a": [1.0, 2.0], "b": [2.0, 1.0]},),
        ),
    ),
    envelope=envelope,
    error=AurumError,
)  # fmt: skip
