"""smally: `POST /v1/embed`, one text in, one raw vector out."""

from __future__ import annotations

from msgspec import Struct

from phalanx.contract.text import EmbedRequest, EmbedResponse
from phalanx.contract.vector import Embedding
from phalanx.edges.http.dialects import Dialect, DialectRoute
from phalanx.errors import InvalidRequest, PhalanxError
from phalanx.services.ticket import Call


class SmallyRequest(Struct, frozen=True):
    """One text; the vector is of unit length only when asked for."""

    text: str
    normalize: bool | None = False


class SmallyResponse(Struct, frozen=True):
    """The vector, its tokens, and whether it came from a cache."""

    embedding: Embedding
    tokens: int
    cached: bool
    model: str


class SmallyError(Struct, frozen=True):
    """`error` is a code of the error table."""

    error: str
    message: str


def decode(wire: SmallyRequest) -> EmbedRequest:
    """Refuse empty text as the original does; too long a text is an error, not cut."""
    if not wire.text.strip():
        raise InvalidRequest("text is empty; send at least one character that is not white space", param="text")
    return EmbedRequest(texts=[wire.text], normalize=bool(wire.normalize), truncate="none")


def encode(wire: SmallyRequest, response: EmbedResponse, call: Call) -> SmallyResponse:
    """Unwrap the one vector."""
    item = response.items[0]
    return SmallyResponse(
        embedding=response.embeddings[0], tokens=item.used_tokens, cached=item.cached, model=response.model
    )


def envelope(error: PhalanxError, request_id: str) -> SmallyError:
    """`{"error", "message"}`."""
    return SmallyError(error=error.code, message=error.detail)


SMALLY = Dialect(
    name="smally",
    routes=(
        DialectRoute(
            "POST", "/v1/embed", "text.embed", SmallyRequest, SmallyResponse, decode, encode,
            "Embed one text (smally).", ({"text": "Hello world"}, {"text": "Hello world", "normalize": True}),
        ),
    ),
    envelope=envelope,
    error=SmallyError,
)  # fmt: skip
