"""Text: embedding, token vectors, tokenising and similarity of texts."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from phalanx.contract.vector import Embedding, TokenVectors

MAX_TEXTS = 2048
"""Texts in one request: OpenAI's own limit."""

MAX_TOKENIZED_CHARS = 1_048_576
"""Characters of all texts whose tokens are asked for: each may be a token, of about 70 bytes in the answer."""

MAX_TOKEN_NUMBERS = 4 * 2**20
"""Numbers of all vectors of tokens in one answer: 16 MiB as float32, about 50 MB as JSON."""

TokenIds = list[Annotated[int, Meta(ge=0, le=2**31 - 1)]]
Text = str | TokenIds
"""A text, or the ids of its tokens in the model's vocabulary (special tokens are dropped and added anew)."""

Truncate = Literal["none", "start", "end"]
Output = Literal["float", "base64", "int8", "uint8", "binary", "ubinary"]

Model = Annotated[str, Meta(description="A model of `/v1/models`; the worker's text model unless given.")]
Prompt = Annotated[str, Meta(description="Name of a prompt of the model, which is put before each text.")]
Truncation = Annotated[
    Truncate, Meta(description="Which end of a text longer than the model takes is cut off; none refuses it.")
]
Normalize = Annotated[bool, Meta(description="Bring each vector to length 1.")]
Dimensions = Annotated[int, Meta(ge=1, description="Keep the first so many numbers of each vector.")]


class EmbedRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Texts to embed and how their vectors are to look."""

    texts: list[Text]
    model: Model | None = None
    normalize: Normalize = True
    truncate: Truncation = "end"
    dimensions: Dimensions | None = None
    output: Output = "float"
    prompt: Prompt | None = None


class ItemError(Struct, frozen=True, kw_only=True):
    """Why one item has no answer: a code of the error table and a sentence."""

    code: str
    detail: str


class EmbedItem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What happened to one text: its tokens, how many of them were used, whether it was cut or came from a cache."""

    tokens: int
    used_tokens: int
    truncated: bool
    cached: bool
    error: ItemError | None = None


class TokenUsage(Struct, frozen=True, kw_only=True):
    """Tokens that count, special tokens included."""

    tokens: int


class EmbedResponse(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One embedding a text, in order; null where its item carries an error.

    By `output`: float is `[d]` float32; int8 and uint8 are `[d]` integers; binary and ubinary `[d/8]` packed signs;
    base64 is little-endian float32.
    """

    embeddings: list[Embedding]
    items: list[EmbedItem]
    model: str
    usage: TokenUsage
    simulated: bool = False


class EmbedTokensRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Texts whose token vectors, before pooling, are wanted: of 4,194,304 numbers in all, tokens times dimensions."""

    texts: list[Text]
    model: Model | None = None
    truncate: Truncation = "end"
    prompt: Prompt | None = None


class EmbedTokensResponse(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """For each text a `[tokens, d]` float32 matrix, special tokens included."""

    embeddings: list[TokenVectors]
    items: list[EmbedItem]
    model: str
    usage: TokenUsage
    simulated: bool = False


class TokenizeRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Texts to tokenise, of 1,048,576 characters in all; nothing is cut."""

    texts: list[str]
    model: Model | None = None
    add_special_tokens: bool = True
    prompt: Prompt | None = None


class Token(Struct, frozen=True, kw_only=True):
    """One token; `start` and `stop` are character offsets in the text, null for special tokens."""

    id: int
    text: str
    special: bool
    start: int | None = None
    stop: int | None = None


class TokenizeResponse(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The tokens of each text."""

    tokens: list[list[Token]]
    model: str
    simulated: bool = False


class SimilarityRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A sentence to compare with others."""

    source: Text
    texts: list[Text]
    model: Model | None = None
    truncate: Truncation = "end"
    prompt: Prompt | None = None


class SimilarityResponse(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Cosine similarity of the source to each text, -1 to 1."""

    similarities: list[float]
    model: str
    usage: TokenUsage
    simulated: bool = False
