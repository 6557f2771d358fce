"""OpenAI: `POST /v1/embeddings`, and the error envelope of `/v1/models`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from phalanx.contract.text import EmbedRequest, EmbedResponse
from phalanx.contract.vector import Embedding
from phalanx.edges.http.dialects import Dialect, DialectRoute
from phalanx.edges.http.dialects.inputs import Input, texts_of
from phalanx.errors import ERRORS, PhalanxError
from phalanx.services.ticket import Call


class OpenAIEmbeddingRequest(Struct, frozen=True):
    """`input` is a text, texts, one text's token ids, or a list of such; ids are of the served model's vocabulary."""

    input: Input
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    user: str | None = None


class OpenAIEmbedding(Struct, frozen=True):
    """One vector."""

    embedding: Embedding
    index: int
    object: Literal["embedding"] = "embedding"


class OpenAIUsage(Struct, frozen=True):
    """Tokens of the request."""

    prompt_tokens: int
    total_tokens: int


class OpenAIEmbeddingResponse(Struct, frozen=True):
    """Vectors in the order of `input`."""

    data: list[OpenAIEmbedding]
    model: str
    usage: OpenAIUsage
    object: Literal["list"] = "list"


class OpenAIErrorBody(Struct, frozen=True):
    """What the SDKs show."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(Struct, frozen=True):
    """OpenAI's envelope."""

    error: OpenAIErrorBody


def decode(wire: OpenAIEmbeddingRequest) -> EmbedRequest:
    """OpenAI's options under our names. Raises `InvalidRequest` for empty input and mixed lists."""
    return EmbedRequest(
        texts=texts_of(wire.input, "input"),
        model=wire.model or None,
        output="base64" if wire.encoding_format == "base64" else "float",
        dimensions=wire.dimensions,
    )


def encode(wire: OpenAIEmbeddingRequest, response: EmbedResponse, call: Call) -> OpenAIEmbeddingResponse:
    """Number the vectors. One that failed fails the request, as in the original."""
    for index, item in enumerate(response.items):
        if item.error is not None:
            where = "input" if isinstance(wire.input, str) else f"input[{index}]"
            raise ERRORS[item.error.code](f"{where}: {item.error.detail}", param="input")
    tokens = response.usage.tokens
    return OpenAIEmbeddingResponse(
        data=[OpenAIEmbedding(embedding=vector, index=index) for index, vector in enumerate(response.embeddings)],
        model=response.model,
        usage=OpenAIUsage(prompt_tokens=tokens, total_tokens=tokens),
    )


_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


def envelope(error: PhalanxError, request_id: str) -> OpenAIError:
    """`{"error": {"message", "type", "param", "code"}}`, with OpenAI's types."""
    status = error.row.http
    kind = _TYPES.get(status) or ("server_error" if status >= 500 else "invalid_request_error")
    code = "insufficient_quota" if error.code == "quota_exceeded" else error.code
    return OpenAIError(error=OpenAIErrorBody(message=error.detail, type=kind, param=error.param, code=code))


OPENAI = Dialect(
    name="openai",
    routes=(
        DialectRoute(
            "POST", "/v1/embeddings", "text.embed", OpenAIEmbeddingRequest, OpenAIEmbeddingResponse, decode, encode,
            "Embed texts (OpenAI).",
            ({"input": "Hello world", "model": "all-MiniLM-L6-v2"}, {"input": ["one", "two"], "encoding_format": "base64"}),
        ),
    ),
    envelope=envelope,
    error=OpenAIError,
    adopts=frozenset({"models.list", "models.get"}),
)  # fmt: skip
