"""Text Embeddings Inference: `/embed`, `/embed_all`, `/tokenize`, `/similarity`. (`/info` is a system route.)"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from phalanx.contract.text import (
    EmbedItem,
    EmbedRequest,
    EmbedResponse,
    EmbedTokensRequest,
    EmbedTokensResponse,
    SimilarityRequest,
    SimilarityResponse,
    TokenizeRequest,
    TokenizeResponse,
    Truncate,
)
from phalanx.contract.vector import Embedding, TokenVectors
from phalanx.edges.http.dialects import Dialect, DialectRoute
from phalanx.edges.http.dialects.inputs import Input, texts_of
from phalanx.errors import ERRORS, InvalidRequest, PhalanxError
from phalanx.services.ticket import Call

Direction = Literal["Left", "Right", "left", "right"]


class TeiEmbedRequest(Struct, frozen=True):
    """Texts or token ids. `truncate` null takes the server's default, which is to cut."""

    inputs: Input
    truncate: bool | None = None
    truncation_direction: Direction | None = "Right"
    prompt_name: str | None = None
    normalize: bool | None = True
    dimensions: Annotated[int, Meta(ge=1)] | None = None


class TeiEmbedAllRequest(Struct, frozen=True):
    """Texts whose token vectors are wanted."""

    inputs: Input
    truncate: bool | None = None
    truncation_direction: Direction | None = "Right"
    prompt_name: str | None = None


class TeiTokenizeRequest(Struct, frozen=True):
    """Texts to tokenise."""

    inputs: str | list[str]
    add_special_tokens: bool | None = True
    prompt_name: str | None = None


class TeiToken(Struct, frozen=True):
    """One token with its character offsets."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class TeiSimilarityInputs(Struct, frozen=True):
    """A sentence and those to compare it with."""

    source_sentence: str
    sentences: list[str]


class TeiSimilarityParameters(Struct, frozen=True):
    """How the sentences are cut and prompted."""

    truncate: bool | None = None
    truncation_direction: Direction | None = "Right"
    prompt_name: str | None = None


class TeiSimilarityRequest(Struct, frozen=True):
    """`parameters` may be null."""

    inputs: TeiSimilarityInputs
    parameters: TeiSimilarityParameters | None = None


class TeiError(Struct, frozen=True):
    """TEI's envelope."""

    error: str
    error_type: str


def _truncate(wanted: bool | None, direction: Direction | None) -> Truncate:
    if wanted is False:
        return "none"
    return "start" if direction in ("Left", "left") else "end"


def decode_embed(wire: TeiEmbedRequest) -> EmbedRequest:
    """TEI's options under our names; `Left` cuts the start."""
    return EmbedRequest(
        texts=texts_of(wire.inputs, "inputs"),
        truncate=_truncate(wire.truncate, wire.truncation_direction),
        normalize=wire.normalize is not False,
        dimensions=wire.dimensions,
        prompt=wire.prompt_name,
    )


def encode_embed(wire: TeiEmbedRequest, response: EmbedResponse, call: Call) -> list[Any]:
    """A bare list of vectors."""
    _refuse(response.items)
    return response.embeddings


def decode_embed_all(wire: TeiEmbedAllRequest) -> EmbedTokensRequest:
    """As `decode_embed`, for token vectors."""
    return EmbedTokensRequest(
        texts=texts_of(wire.inputs, "inputs"),
        truncate=_truncate(wire.truncate, wire.truncation_direction),
        prompt=wire.prompt_name,
    )


def encode_embed_all(wire: TeiEmbedAllRequest, response: EmbedTokensResponse, call: Call) -> list[Any]:
    """A bare list of matrices."""
    _refuse(response.items)
    return response.embeddings


def _refuse(items: Sequence[EmbedItem]) -> None:
    """One bad item fails the request, as in the original."""
    for index, item in enumerate(items):
        if item.error is not None:
            raise ERRORS[item.error.code](f"inputs[{index}]: {item.error.detail}", param="inputs")


def decode_tokenize(wire: TeiTokenizeRequest) -> TokenizeRequest:
    """One text or several."""
    texts = [wire.inputs] if isinstance(wire.inputs, str) else wire.inputs
    special = wire.add_special_tokens is not False
    return TokenizeRequest(texts=texts, add_special_tokens=special, prompt=wire.prompt_name)


def encode_tokenize(wire: TeiTokenizeRequest, response: TokenizeResponse, call: Call) -> list[list[TeiToken]]:
    """Tokens of each text."""
    return [
        [TeiToken(id=t.id, text=t.text, special=t.special, start=t.start, stop=t.stop) for t in tokens]
        for tokens in response.tokens
    ]


def decode_similarity(wire: TeiSimilarityRequest) -> SimilarityRequest:
    """A source and its candidates. Raises `InvalidRequest` when there is none."""
    if not wire.inputs.sentences:
        raise InvalidRequest("`inputs.sentences` cannot be empty", param="inputs")
    parameters = wire.parameters or TeiSimilarityParameters()
    return SimilarityRequest(
        source=wire.inputs.source_sentence,
        texts=list(wire.inputs.sentences),
        truncate=_truncate(parameters.truncate, parameters.truncation_direction),
        prompt=parameters.prompt_name,
    )


def encode_similarity(wire: TeiSimilarityRequest, response: SimilarityResponse, call: Call) -> list[float]:
    """A bare list of cosines."""
    return response.similarities


_TYPES = {400: "Validation", 413: "Validation", 422: "Tokenizer", 429: "Overloaded", 503: "Overloaded"}


def envelope(error: PhalanxError, request_id: str) -> TeiError:
    """`{"error", "error_type"}`, with TEI's types where they have one for the status."""
    kind = "Unhealthy" if error.code == "unavailable" else _TYPES.get(error.row.http)
    return TeiError(error=error.detail, error_type=kind or ("Backend" if error.row.http >= 500 else "Validation"))


TEI = Dialect(
    name="tei",
    routes=(
        DialectRoute(
            "POST", "/embed", "text.embed", TeiEmbedRequest, list[Embedding], decode_embed, encode_embed,
            "Embed texts (TEI).", ({"inputs": "Hello world"}, {"inputs": ["one", "two"], "normalize": False}),
        ),
        DialectRoute(
            "POST", "/", "text.embed", TeiEmbedRequest, list[Embedding], decode_embed, encode_embed,
            "Embed texts (TEI): where clients of Inference Endpoints post, without a route.", ({"inputs": "Hello world"},),
        ),
        DialectRoute(
            "POST", "/embed_all", "text.embed_tokens", TeiEmbedAllRequest, list[TokenVectors], decode_embed_all,
            encode_embed_all, "Return the vector of every token (TEI).", ({"inputs": "Hello world"},),
        ),
        DialectRoute(
            "POST", "/tokenize", "text.tokenize", TeiTokenizeRequest, list[list[TeiToken]], decode_tokenize,
            encode_tokenize, "Split texts into tokens (TEI).", ({"inputs": "Hello world"},),
        ),
        DialectRoute(
            "POST", "/similarity", "text.similarity", TeiSimilarityRequest, list[float], decode_similarity,
            encode_similarity, "Compare a sentence with others (TEI).",
            ({"inputs": {"source_sentence": "a cat", "sentences": ["a kitten", "a lorry"]}},),
        ),
    ),
    envelope=envelope,
    error=TeiError,
)  # fmt: skip
