"""Text: embedding, token vectors, tokenising, similarity."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

import numpy as np

from phalanx.contract.text import (
    MAX_TEXTS,
    MAX_TOKEN_NUMBERS,
    MAX_TOKENIZED_CHARS,
    EmbedItem,
    EmbedRequest,
    EmbedResponse,
    EmbedTokensRequest,
    EmbedTokensResponse,
    ItemError,
    SimilarityRequest,
    SimilarityResponse,
    Text,
    Token,
    TokenizeRequest,
    TokenizeResponse,
    TokenUsage,
    Truncate,
)
from phalanx.contract.vector import Vector
from phalanx.engines.text.model import PreparedText
from phalanx.engines.text.vectors import finish, unit
from phalanx.errors import InvalidRequest, PhalanxError, TooLarge
from phalanx.ports import CachedVector, Submission, VectorCache
from phalanx.services.ahead import answered_ahead
from phalanx.services.serving.text_models import ModelRegistry, ServedText
from phalanx.services.ticket import Ticket

# Tokenising costs about 5 µs for a short sentence; a thread's hand-over costs 50. Below this many characters the event
# loop does it itself.
INLINE_CHARS = 2000
# Finishing a vector costs about 5 µs.
INLINE_VECTORS = 64
TEXTS_AHEAD = 256
"""Texts of one stream under way at once: several batches of short ones."""
FOLLOWED_PART = 128
"""Texts that are computed between two reports of a call that is followed."""

T = TypeVar("T")


class Embedded:
    """What is known of one text on its way: its counts, then its raw vector or the error that ended it."""

    __slots__ = ("cached", "error", "raw", "tokens", "truncated", "used_tokens")

    def __init__(self) -> None:
        self.tokens = 0
        self.used_tokens = 0
        self.truncated = False
        self.cached = False
        self.raw: Vector | None = None
        self.error: PhalanxError | None = None

    def item(self) -> EmbedItem:
        """Return its line in the answer."""
        error = ItemError(code=self.error.code, detail=self.error.detail) if self.error else None
        return EmbedItem(
            tokens=self.tokens, used_tokens=self.used_tokens, truncated=self.truncated, cached=self.cached, error=error
        )


class TextService:
    """The text operations, over one or several models."""

    def __init__(
        self,
        models: ModelRegistry,
        cache: VectorCache,
        *,
        share_cache: bool = False,
        on_lookup: Callable[[int, int], None] = lambda hits, misses: None,
    ) -> None:
        self._models = models
        self._cache = cache
        self._share_cache = share_cache
        self._on_lookup = on_lookup

    async def embed(self, ticket: Ticket, request: EmbedRequest) -> EmbedResponse:
        """Return one vector a text.

        A text that cannot be embedded carries its error in `items` and does not fail the others; when none can be,
        the first error is raised. Raises `ModelNotFound`, `Unavailable`, `InvalidRequest` (dimensions, prompt),
        `TooLarge` (more than 2048 texts), `Overloaded`, `DeadlineExceeded`.
        """
        return _settled(ticket, await self._embedded(ticket, request))

    async def embed_stream(self, ticket: Ticket, requests: AsyncIterator[EmbedRequest]) -> AsyncIterator[EmbedResponse]:
        """Answer each request of a stream in order, with up to `TEXTS_AHEAD` texts under way, so that the engine is never out of work.

        What is billed is what was answered.
        """
        answers = answered_ahead(
            requests, lambda request: self._embedded(ticket, request), lambda request: len(request.texts), TEXTS_AHEAD
        )
        async with aclosing(answers):
            async for one in answers:
                yield _settled(ticket, one)

    async def _embedded(self, ticket: Ticket, request: EmbedRequest) -> tuple[ServedText, list[Embedded], list[Any]]:
        """Return a request's vectors and what is known of its texts, not yet metered."""
        served = self._models.text(request.model, ticket.caller.subject)
        _check(served, len(request.texts), request.prompt, request.dimensions)
        found = await self._embed(ticket, served, request.texts, request.truncate, request.prompt, share=1.0)

        def finish_all() -> list[Any]:
            options: Any = {"normalize": request.normalize, "dimensions": request.dimensions, "output": request.output}
            return [None if one.raw is None else finish(one.raw, **options) for one in found]

        return served, found, await _near_or_far(len(found) <= INLINE_VECTORS, finish_all)

    async def embed_tokens(self, ticket: Ticket, request: EmbedTokensRequest) -> EmbedTokensResponse:
        """Return the vector of every token, before pooling. Errors as `embed`, and `TooLarge` for an answer of too many numbers; nothing is cached."""
        served = self._models.text(request.model, ticket.caller.subject)
        _check(served, len(request.texts), request.prompt, None)
        found = [Embedded() for _ in request.texts]
        await self._compute(
            ticket,
            served,
            found,
            request.texts,
            range(len(found)),
            request.truncate,
            request.prompt,
            want_tokens=True,
            share=1.0,
        )
        items, tokens = _settle(ticket, served, found)
        matrices: list[Any] = [one.raw for one in found]
        return EmbedTokensResponse(embeddings=matrices, items=items, model=served.name, usage=TokenUsage(tokens=tokens))

    async def tokenize(self, ticket: Ticket, request: TokenizeRequest) -> TokenizeResponse:
        """Return each text's tokens. Raises `ModelNotFound`, `InvalidRequest`, `TooLarge`."""
        served = self._models.text(request.model, ticket.caller.subject)
        _check(served, len(request.texts), request.prompt, None)
        size = sum(map(len, request.texts))
        if size > MAX_TOKENIZED_CHARS:
            raise TooLarge(
                f"the texts have {size} characters; tokens are given of {MAX_TOKENIZED_CHARS} in one request",
                param="texts",
            )

        def split() -> list[list[Token]]:
            return [
                served.model.tokenize(text, add_special_tokens=request.add_special_tokens, prompt=request.prompt)
                for text in request.texts
            ]

        tokens = await _near_or_far(size <= INLINE_CHARS, split)
        meter = ticket.meter
        meter.note_model(served)
        meter.items = len(tokens)
        meter.tokens = meter.units = sum(map(len, tokens))
        return TokenizeResponse(tokens=tokens, model=served.name)

    async def similarity(self, ticket: Ticket, request: SimilarityRequest) -> SimilarityResponse:
        """Return the cosine of the source's vector to each text's. The first text that fails fails the call."""
        served = self._models.text(request.model, ticket.caller.subject)
        _check(served, len(request.texts) + 1, request.prompt, None)
        texts = [request.source, *request.texts]
        found = await self._embed(ticket, served, texts, request.truncate, request.prompt)
        for one in found:
            if one.error is not None:
                raise one.error
        _, tokens = _settle(ticket, served, found)
        rows = unit(np.stack([one.raw for one in found if one.raw is not None]))
        cosines = np.clip(rows[1:] @ rows[0], -1.0, 1.0)
        return SimilarityResponse(
            similarities=[float(c) for c in cosines], model=served.name, usage=TokenUsage(tokens=tokens)
        )

    async def vectors(
        self,
        ticket: Ticket,
        served: ServedText,
        texts: Sequence[str],
        *,
        prompt: str | None = None,
        share: float = 0.0,
    ) -> list[Vector]:
        """Return a unit vector a text by one version of a model, whoever calls: what a collection is pinned to.

        `share` is the part of the call that this is, for who follows it; 0 reports nothing. The first text that fails fails
        the call, its number said. Raises `InvalidRequest`, `TooLarge`, `Overloaded`,
        `DeadlineExceeded`.
        """
        _check(served, len(texts), prompt, None)
        found = await self._embed(ticket, served, texts, "end", prompt, share=share)
        for index, one in enumerate(found):
            if isinstance(one.error, InvalidRequest):
                raise InvalidRequest(f"the text of points[{index}]: {one.error.detail}", param="text")
            if one.error is not None:
                raise one.error
        _settle(ticket, served, found)
        return [
            finish(one.raw, normalize=True, dimensions=None, output="float") for one in found if one.raw is not None
        ]

    async def _embed(
        self,
        ticket: Ticket,
        served: ServedText,
        texts: Sequence[Text],
        truncate: Truncate,
        prompt: str | None,
        *,
        share: float = 0.0,
    ) -> list[Embedded]:
        """Look every text up, compute what is missing, keep it."""
        tenant = "" if self._share_cache else ticket.cached_for
        salt = "\x1f".join((tenant, served.model.spec.fingerprint, truncate, prompt or "", "")).encode()
        keys = [_key(salt, text) for text in texts]
        found = [Embedded() for _ in texts]
        missing = []
        for index, hit in enumerate(await self._cache.get_many(keys)):
            if hit is None:
                missing.append(index)
            else:
                _fill(found[index], hit)
        self._on_lookup(len(texts) - len(missing), len(missing))
        if missing:
            await self._compute(ticket, served, found, texts, missing, truncate, prompt, keys=keys, share=share)
            await self._cache.set_many([(keys[i], _keep(found[i])) for i in missing if found[i].raw is not None])
        return found

    async def _compute(
        self,
        ticket: Ticket,
        served: ServedText,
        found: list[Embedded],
        texts: Sequence[Text],
        indices: Sequence[int],
        truncate: Truncate,
        prompt: str | None,
        *,
        keys: Sequence[bytes] | None = None,
        want_tokens: bool = False,
        share: float = 0.0,
    ) -> None:
        """Tokenise the texts at `indices`, run them, and fill in `found`."""

        def prepare() -> list[tuple[int, PreparedText]]:
            ready = []
            for index in indices:
                text = texts[index]
                try:
                    _refuse_blank(text)
                    one = served.model.prepare(text, truncate=truncate, prompt=prompt, want_tokens=want_tokens)
                except PhalanxError as error:
                    found[index].error = error
                    continue
                into = found[index]
                into.tokens, into.used_tokens, into.truncated = one.tokens, one.used_tokens, one.truncated
                ready.append((index, one))
            return ready

        ready = await _near_or_far(sum(len(texts[i]) for i in indices) <= INLINE_CHARS, prepare)
        if not ready:
            return
        if want_tokens:
            _refuse_many_numbers(served, sum(one.used_tokens for _, one in ready))
        submissions = [Submission(one, keys[index] if keys is not None else None) for index, one in ready]
        # In parts only where somebody follows: between two of them the engine may be idle.
        part = FOLLOWED_PART if ticket.followed_by is not None and share else len(submissions)
        results: list[Any] = []
        for begin in range(0, len(submissions), part):
            some = submissions[begin : begin + part]
            queued_at = time.monotonic()
            try:
                results += await served.runner.submit(some, tenant=ticket.tenant, deadline=ticket.deadline)
            except PhalanxError:
                ticket.meter.queue_s += time.monotonic() - queued_at
                raise
            if share and len(found) > 1:
                done = len(found) - len(submissions) + len(results)
                ticket.report(share * done / len(found))
        meter = ticket.meter
        for (index, _), result in zip(ready, results, strict=True):
            if isinstance(result, PhalanxError):
                found[index].error = result
            else:
                found[index].raw = result.value
                meter.queue_s = max(meter.queue_s, result.queue_s)
                meter.engine_s = max(meter.engine_s, result.engine_s)


async def _near_or_far(near: bool, work: Callable[[], T]) -> T:
    """Run `work` here when it is small, else in a thread, so that the event loop goes on serving others."""
    return work() if near else await asyncio.to_thread(work)


def _check(served: ServedText, count: int, prompt: str | None, dimensions: int | None) -> None:
    spec = served.model.spec
    if count > MAX_TEXTS:
        raise TooLarge(f"{count} texts were sent, {MAX_TEXTS} are allowed in one request", param="texts")
    if prompt is not None and prompt not in spec.prompts:
        there = ", ".join(sorted(spec.prompts)) or "none"
        raise InvalidRequest(f"the model {spec.name!r} has no prompt {prompt!r}; it has {there}", param="prompt")
    if dimensions is not None and not 1 <= dimensions <= spec.dimensions:
        raise InvalidRequest(
            f"dimensions is {dimensions}; the model {spec.name!r} gives 1 to {spec.dimensions}", param="dimensions"
        )


def _refuse_many_numbers(served: ServedText, tokens: int) -> None:
    """Refuse, before anything is computed, vectors of tokens that together are too many for one answer."""
    dimensions = served.model.spec.dimensions
    if tokens * dimensions > MAX_TOKEN_NUMBERS:
        raise TooLarge(
            f"the vectors of {tokens} tokens with {dimensions} numbers each are {tokens * dimensions} numbers; an answer holds "
            f"{MAX_TOKEN_NUMBERS}, that is {MAX_TOKEN_NUMBERS // dimensions} tokens: send the texts in several requests",
            param="texts",
        )


def _refuse_blank(text: Text) -> None:
    if not text or (isinstance(text, str) and text.isspace()):
        raise InvalidRequest("the text is empty or white space only; send at least one other character")


def _key(salt: bytes, text: Text) -> bytes:
    """Digest what decides a raw vector: model, options and text. 128 bits: a collision is beyond reach."""
    kind, body = (
        (b"t", text.encode("utf-8", "surrogatepass"))
        if isinstance(text, str)
        else (b"i", np.asarray(text, dtype="<i8").tobytes())
    )
    return hashlib.blake2b(salt + kind + body, digest_size=16).digest()


def _fill(into: Embedded, hit: CachedVector) -> None:
    into.raw = np.frombuffer(hit.vector, dtype=np.float32)
    into.tokens, into.used_tokens = hit.tokens, hit.used_tokens
    into.truncated = hit.tokens > hit.used_tokens
    into.cached = True


def _keep(one: Embedded) -> CachedVector:
    assert one.raw is not None
    return CachedVector(one.raw.tobytes(), one.tokens, one.used_tokens)


def _settled(ticket: Ticket, done: tuple[ServedText, list[Embedded], list[Any]]) -> EmbedResponse:
    """Meter a request that is embedded and return its answer."""
    served, found, embeddings = done
    items, tokens = _settle(ticket, served, found)
    return EmbedResponse(embeddings=embeddings, items=items, model=served.name, usage=TokenUsage(tokens=tokens))


def _settle(ticket: Ticket, served: ServedText, found: Sequence[Embedded]) -> tuple[list[EmbedItem], int]:
    """Meter what was done and return the answer's items with the tokens that count; raise when nothing was."""
    if found and all(one.error is not None for one in found):
        assert found[0].error is not None
        raise found[0].error
    tokens = sum(one.used_tokens for one in found if one.error is None)
    meter = ticket.meter
    meter.note_model(served)
    meter.items += len(found)
    meter.tokens += tokens
    meter.units += tokens
    meter.cached += sum(one.cached for one in found)
    return [one.item() for one in found], tokens
