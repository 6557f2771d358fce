"""Rows about text."""

from __future__ import annotations

from phalanx.contract import text
from phalanx.operations.row import Kind, Operation

TEXT: tuple[Operation, ...] = (
    Operation(
        name="text.embed", request=text.EmbedRequest, response=text.EmbedResponse, scope="text", unit="token",
        http="POST /v1/text/embed", grpc="Text/Embed", job=True, computed=True, cache="content",
        run=lambda s, t, r: s.text.embed(t, r), summary="Embed texts.",
        examples=({"texts": ["Hello world"]}, {"texts": ["one", "two"], "dimensions": 64, "output": "base64"}),
    ),
    Operation(
        name="text.embed_stream", request=text.EmbedRequest, response=text.EmbedResponse, scope="text", unit="token",
        http="POST /v1/text/embed-stream", grpc="Text/EmbedStream", kind=Kind.CLIENT_STREAM, cache="content",
        run=lambda s, t, r: s.text.embed_stream(t, r), summary="Embed a stream of requests, one JSON object a line.",
        examples=({"texts": ["Hello world"]},),
    ),
    Operation(
        name="text.embed_tokens", request=text.EmbedTokensRequest, response=text.EmbedTokensResponse, scope="text",
        unit="token", http="POST /v1/text/embed-tokens", grpc="Text/EmbedTokens", job=True, computed=True,
        run=lambda s, t, r: s.text.embed_tokens(t, r), summary="Return the vector of every token, before pooling.",
        examples=({"texts": ["Hello world"]},),
    ),
    Operation(
        name="text.tokenize", request=text.TokenizeRequest, response=text.TokenizeResponse, scope="text", unit="token",
        http="POST /v1/text/tokenize", grpc="Text/Tokenize", computed=True,
        run=lambda s, t, r: s.text.tokenize(t, r), summary="Split texts into tokens.",
        examples=({"texts": ["Hello world"]},),
    ),
    Operation(
        name="text.similarity", request=text.SimilarityRequest, response=text.SimilarityResponse, scope="text",
        unit="token", http="POST /v1/text/similarity", grpc="Text/Similarity", job=True, computed=True, cache="content",
        run=lambda s, t, r: s.text.similarity(t, r), summary="Compare a text with others by cosine.",
        examples=({"source": "a cat", "texts": ["a kitten", "a lorry"]},),
    ),
)  # fmt: skip
