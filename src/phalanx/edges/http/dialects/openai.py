"""OpenAI: `POST /v1/embeddings`, and the error envelope of `/v1/models`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from phalanx.contract.text import EmbedRequest, EmbedResponse, Text, TokenIds
from phalanx.contract.vector import Embedding
from phalanx.edges.http.dialects import Dialect, DialectRoute
from phalanx.errors import ERRORS, InvalidRequest, PhalanxError
from phalanx.services.ticket import Call

_Id = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class OpenAIEmbeddingRequest(Struct, frozen=True):
    """`input` is a text, texts, one text's token ids, or a list of such; ids are of the served model's vocabulary."""

    input: str | list[str | _Id | TokenIds]
    model: str = ""
    encoding_format: Literal["float", "base64"] = "float"
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
    """Sort out the four forms of `input`. Raises `InvalidRequest` for empty input and mixed lists."""
    return EmbedRequest(
        texts=_texts(wire.input),
        model=wire.model or None,
        output="base64" if wire.encoding_format == "base64" else "float",
        dimensions=wire.dimensions,
    )


def _texts(given: str | list[str | _Id | TokenIds]) -> list[Text]:
    if isinstance(given, str):
        return [given]
    kinds = {type(part) for part in given}
    if kinds == {int}:
        return [[part for part in given if isinstance(part, int)]]
    if len(kinds) > 1:
        raise InvalidRequest("input mixes texts and token ids; send one kind", param="input")
    if not given:
        raise InvalidRequest("input is empty; send at least one text", param="input")
    return [part for part in given if not isinstance(part, int)]


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
