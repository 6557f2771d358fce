"""Ollama: `POST /api/embed` and the older `POST /api/embeddings`."""

from __future__ import annotations

import time
from typing import Annotated, Any

from msgspec import Meta, Struct

from phalanx.contract.text import EmbedRequest, EmbedResponse
from phalanx.contract.vector import Embedding
from phalanx.edges.http.dialects import Dialect, DialectRoute
from phalanx.errors import ERRORS, PhalanxError
from phalanx.services.ticket import Call


class OllamaEmbedRequest(Struct, frozen=True):
    """One text or several; too long a text is cut unless `truncate` is false. `options` and `keep_alive` do nothing."""

    model: str
    input: str | list[str] | None = None
    truncate: bool | None = True
    dimensions: Annotated[int, Meta(ge=0)] | None = None
    options: dict[str, Any] | None = None
    keep_alive: str | int | float | None = None


class OllamaEmbedResponse(Struct, frozen=True):
    """Unit vectors; durations in nanoseconds. `load_duration` is 0: the model stays loaded."""

    model: str
    embeddings: list[Embedding]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class OllamaEmbeddingsRequest(Struct, frozen=True):
    """The older form: one prompt."""

    model: str
    prompt: str | None = None
    options: dict[str, Any] | None = None
    keep_alive: str | int | float | None = None


class OllamaEmbeddingsResponse(Struct, frozen=True):
    """One vector."""

    embedding: Embedding


class OllamaError(Struct, frozen=True):
    """Ollama's envelope."""

    error: str


def decode_embed(wire: OllamaEmbedRequest) -> EmbedRequest:
    """`dimensions: 0` means all, as in the original."""
    # An empty `input` asks the original to load the model; the answer is an empty list there, and here.
    texts = wire.input if isinstance(wire.input, list) else [wire.input] if wire.input else []
    return EmbedRequest(
        texts=list(texts),
        model=_model(wire.model),
        truncate="none" if wire.truncate is False else "end",
        dimensions=wire.dimensions or None,
    )


def encode_embed(wire: OllamaEmbedRequest, response: EmbedResponse, call: Call) -> OllamaEmbedResponse:
    """Any failed text fails the request, as in the original."""
    _refuse(response)
    ticket = call.ticket
    elapsed = time.monotonic() - ticket.started if ticket else 0.0
    return OllamaEmbedResponse(
        model=wire.model,
        embeddings=response.embeddings,
        total_duration=max(1, int(elapsed * 1e9)),
        load_duration=0,
        prompt_eval_count=response.usage.tokens,
    )


def decode_embeddings(wire: OllamaEmbeddingsRequest) -> EmbedRequest:
    """One text; the older route does not normalise in the original either."""
    return EmbedRequest(texts=[wire.prompt] if wire.prompt else [], model=_model(wire.model), normalize=False)


def encode_embeddings(wire: OllamaEmbeddingsRequest, response: EmbedResponse, call: Call) -> OllamaEmbeddingsResponse:
    """Unwrap the vector."""
    _refuse(response)
    return OllamaEmbeddingsResponse(embedding=response.embeddings[0] if response.embeddings else [])


def _model(name: str) -> str | None:
    """`name:latest` is `name`."""
    return name.removesuffix(":latest") or None


def _refuse(response: EmbedResponse) -> None:
    for item in response.items:
        if item.error is not None:
            raise ERRORS[item.error.code](item.error.detail, param="input")


def envelope(error: PhalanxError, request_id: str) -> OllamaError:
    """`{"error": "text"}`."""
    return OllamaError(error=error.detail)


OLLAMA = Dialect(
    name="ollama",
    routes=(
        DialectRoute(
            "POST", "/api/embed", "text.embed", OllamaEmbedRequest, OllamaEmbedResponse, decode_embed, encode_embed,
            "Embed texts (Ollama).", ({"model": "all-MiniLM-L6-v2", "input": ["one", "two"]},), strict_media_type=False,
        ),
        DialectRoute(
            "POST", "/api/embeddings", "text.embed", OllamaEmbeddingsRequest, OllamaEmbeddingsResponse,
            decode_embeddings, encode_embeddings, "Embed one text (Ollama, older form).",
            ({"model": "all-MiniLM-L6-v2", "prompt": "Hello world"},), strict_media_type=False,
        ),
    ),
    envelope=envelope,
    error=OllamaError,
)  # fmt: skip
