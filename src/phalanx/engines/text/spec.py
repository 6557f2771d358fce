"""What a text model is, apart from its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

Pooling = Literal["mean", "cls"]


@dataclass(frozen=True, kw_only=True)
class TextSpec:
    """The facts of a text model.

    `sha256` is of the weights, `tokenizer_sha256` of `tokenizer.json`. `max_tokens` is where texts are cut and
    `positions` the most that the model has room for, both with special tokens. `prompts` are prefixes by name.
    `dimensions` 0 stands for those of the graph, until it is loaded; `arithmetic` is what the graph is then run by:
    engine, kind of device and precision.
    """

    name: str
    version: str
    sha256: str
    dimensions: int
    max_tokens: int
    positions: int
    pooling: Pooling = "mean"
    prompts: Mapping[str, str] = field(default_factory=dict)
    tokenizer_sha256: str = ""
    arithmetic: str = ""

    @cached_property
    def fingerprint(self) -> str:
        """32 hex digits of all that decides a raw vector beside text and options.

        Caches are keyed by it, also one that workers of different engines share: whoever asked for float32 must not get
        what bfloat16 gave another.
        """
        facts = (
            self.version, self.sha256, self.tokenizer_sha256, self.pooling, self.max_tokens, self.dimensions,
            self.arithmetic, sorted(self.prompts.items()),
        )  # fmt: skip
        return hashlib.blake2b(repr(facts).encode(), digest_size=16).hexdigest()
