"""The texts: the reference texts with their vectors, and made-up ones of any length."""

from __future__ import annotations

import functools
import json
import random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from measuring.model import REPOSITORY, vocabulary

GOLDEN = REPOSITORY / "tests" / "golden" / "data"
SPECIAL = 2
"""[CLS] and [SEP]."""
LIMIT = 256


class Reference(NamedTuple):
    """The reference texts, sentence-transformers' token counts (256 at most) and its unit vectors `[n, 384]`."""

    texts: list[str]
    tokens: list[int]
    vectors: NDArray[np.float32]


def reference() -> Reference:
    """Read the reference texts that the golden tests use."""
    rows = [json.loads(line) for line in (GOLDEN / "minilm_texts.jsonl").read_text(encoding="utf-8").splitlines()]
    vectors: NDArray[np.float32] = np.load(GOLDEN / "minilm_texts.npy")
    return Reference([row["text"] for row in rows], [row["tokens"] for row in rows], vectors)


class Corpus:
    """Made-up texts, the same for the same seed; none is given twice."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._words = _words()
        self._given: set[str] = set()

    def text(self, tokens: int) -> str:
        """Return a text of this many tokens, special tokens included: 3 or more."""
        while True:
            made = " ".join(self._random.choices(self._words, k=tokens - SPECIAL))
            if made not in self._given:
                self._given.add(made)
                return made

    def mixed(self, count: int) -> list[str]:
        """Return texts as mixed in length as what people embed.

        Token counts are lognormal (median 24, quartiles 13 and 44, one in a hundred above 190), cut to 4 to 256:
        questions, titles and sentences, some paragraphs.
        """
        lengths = [min(LIMIT, max(4, round(self._random.lognormvariate(3.18, 0.9)))) for _ in range(count)]
        return [self.text(length) for length in lengths]

    def short(self, count: int) -> list[str]:
        """Return texts like "Hello world": two words, four tokens."""
        return [self.text(4) for _ in range(count)]


@functools.cache
def _words() -> list[str]:
    return vocabulary()
