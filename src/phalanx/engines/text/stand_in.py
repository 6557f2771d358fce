"""A stand-in for a text model: words for tokens, vectors by digest."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from phalanx.contract.text import Token, Truncate
from phalanx.contract.vector import Vector
from phalanx.engines.stand_in import SIMULATED, StandInBackend, digest_vector
from phalanx.engines.text.model import PreparedText, TextModel
from phalanx.engines.text.spec import TextSpec
from phalanx.engines.text.tokenizer import TextTokenizer, Tokens
from phalanx.errors import InvalidRequest, TextTooLong

WORD = re.compile(r"\w+|[^\w\s]")
START, STOP = 1, 2
FIRST_ID, IDS = 16, 30_000
"""Ids of words begin behind those of special tokens, and are as many as BERT's, roughly."""


class StandInTokenizer(TextTokenizer):
    """Splits a text into words and signs, whose ids are checksums."""

    def __init__(self, max_tokens: int) -> None:
        self.sha256 = ""
        self.vocabulary_size = FIRST_ID + IDS
        self.max_tokens = max_tokens

    @property
    def pad_id(self) -> int:
        """The id that fills up a batch."""
        return 0

    def encode(self, text: str, truncate: Truncate) -> Tokens:
        """Tokenise a text, cut to the limit. Raises `TextTooLong`, and `InvalidRequest` where there is no word."""
        ids = [_id(word) for word in WORD.findall(_valid(text))]
        if not ids:
            raise InvalidRequest("the text has no tokens: it holds only white space or control characters")
        return self._cut(ids, truncate)

    def wrap(self, ids: Sequence[int], truncate: Truncate, *, prompt: str = "") -> Tokens:
        """Take token ids, behind those of a prompt."""
        for id_ in ids:
            if not 0 <= id_ < self.vocabulary_size:
                raise InvalidRequest(f"token id {id_} is outside the vocabulary: 0 to {self.vocabulary_size - 1}")
        return self._cut([*(_id(word) for word in WORD.findall(prompt)), *ids], truncate)

    def split(self, text: str, *, add_special_tokens: bool, skip: int = 0) -> list[Token]:
        """Return every word and sign with its place."""
        found = []
        for match in WORD.finditer(_valid(text)):
            word, start = match.group(), match.start()
            place = {} if start < skip else {"start": start - skip, "stop": match.end() - skip}
            found.append(Token(id=_id(word), text=word, special=False, **place))
        if add_special_tokens:
            return [Token(id=START, text="[CLS]", special=True), *found, Token(id=STOP, text="[SEP]", special=True)]
        return found

    def _cut(self, ids: list[int], truncate: Truncate) -> Tokens:
        room, total = self.max_tokens - 2, len(ids) + 2
        truncated = len(ids) > room
        if truncated and truncate == "none":
            raise TextTooLong(f"the text has {total} tokens or more, {self.max_tokens} are allowed", param="truncate")
        if truncated:
            ids = ids[-room:] if truncate == "start" else ids[:room]
        return Tokens([START, *ids, STOP], total, truncated)


class StandInTextModel(TextModel):
    """Answers as a text model does, with vectors of unit length that mean nothing. `spec` has the model's own facts."""

    def __init__(self, spec: TextSpec) -> None:
        spec = replace(spec, version=SIMULATED, sha256="", arithmetic=SIMULATED)
        super().__init__(spec, StandInTokenizer(spec.max_tokens), StandInBackend(spec.dimensions))

    def run(self, batch: Sequence[PreparedText]) -> list[Vector]:
        """Return each item's vector, float32 `[d]`, or with `want_tokens` one a token, `[used_tokens, d]`."""
        return [self._vectors(item) if item.want_tokens else self._vector(item.ids.tobytes()) for item in batch]

    def _vector(self, content: bytes) -> Vector:
        return digest_vector(content, self.spec.dimensions)

    def _vectors(self, item: PreparedText) -> Vector:
        content = item.ids.tobytes()
        return np.stack([self._vector(content + index.to_bytes(4, "little")) for index in range(len(item.ids))])

    def warm(self) -> None:
        """There is nothing to warm."""


def _id(word: str) -> int:
    return FIRST_ID + zlib.crc32(word.encode()) % IDS


def _valid(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"the text is not valid Unicode: a lone surrogate at character {error.start}") from error
    return text
