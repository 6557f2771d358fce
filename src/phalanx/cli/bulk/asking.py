"""Ask for the vectors of some texts, and tell a text's own failure from the worker's."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from phalanx.contract.text import EmbedItem, EmbedRequest, EmbedResponse, ItemError, Output, Truncate
from phalanx.errors import ERRORS, Internal, InvalidRequest, Overloaded, TextTooLong, TooLarge

OF_THE_TEXT = (InvalidRequest, TextTooLong, TooLarge, Internal)
"""Failures that another try would repeat. `Internal` is among them: one text may break the engine, and others not."""

TRIES = 30
LONGEST_PAUSE_S = 5.0


class Embedder(Protocol):
    """Whatever answers the row `text.embed`."""

    async def embed(self, request: EmbedRequest) -> EmbedResponse:
        """Return one embedding a text, or raise when no text has one."""
        ...


class EmbedOptions(NamedTuple):
    """What all requests of a run have in common; fields as in `EmbedRequest`."""

    model: str | None = None
    normalize: bool = True
    dimensions: int | None = None
    prompt: str | None = None
    truncate: Truncate = "end"
    output: Output = "float"


class Answer(NamedTuple):
    """What became of one text."""

    embedding: Any
    item: EmbedItem


async def ask(embedder: Embedder, texts: Sequence[str], options: EmbedOptions) -> list[Answer]:
    """Return an answer a text, in order; one that fails by itself carries its error.

    Raises a `PhalanxError` that is not the texts' own, and `Internal` when the engine fails for each of several.
    """
    if not texts:
        return []
    try:
        response = await _patiently(embedder, EmbedRequest(texts=list(texts), **options._asdict()))
    except OF_THE_TEXT as error:
        if len(texts) == 1:
            failure = ItemError(code=error.code, detail=error.detail)
            return [Answer(None, EmbedItem(tokens=0, used_tokens=0, truncated=False, cached=False, error=failure))]
        # A request of which nothing can be embedded raises its first text's error; the others' are wanted too.
        answers = [answer for text in texts for answer in await ask(embedder, [text], options)]
        if all(answer.item.error and answer.item.error.code == Internal.row.code for answer in answers):
            raise
        return answers
    for item in response.items:
        if item.error is not None and not issubclass(ERRORS[item.error.code], OF_THE_TEXT):
            raise ERRORS[item.error.code](item.error.detail)
    return [Answer(*pair) for pair in zip(response.embeddings, response.items, strict=True)]


async def _patiently(embedder: Embedder, request: EmbedRequest) -> EmbedResponse:
    """Send a request; when the queue has no room, wait for it to empty and send it again."""
    for _ in range(TRIES):
        try:
            return await embedder.embed(request)
        except Overloaded as error:
            pause = 1.0 if error.retry_after_s is None else error.retry_after_s
            await asyncio.sleep(min(pause, LONGEST_PAUSE_S))
    return await embedder.embed(request)
