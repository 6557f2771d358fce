"""What a network of face vectors is, apart from its weights."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from phalanx.engines.face.align import TEMPLATES, Template, TemplateName

Metric = Literal["euclidean", "cosine"]


@dataclass(frozen=True, kw_only=True)
class FaceSpec:
    """The facts of a network of face vectors.

    It takes chips of `input_size` pixels a side aligned to `template`, channels in the order of `channels`, a level v
    of 0 to 255 as `(v - offset) / scale`. Two faces are of one person when their `euclidean` distance is at most, or
    their `cosine` at least, `threshold`; `meaning` says what that was measured on. `sha256` is of the weights;
    `arithmetic` is what the graph is run by, once loaded: engine, kind of device and precision.
    """

    name: str
    version: str
    sha256: str
    dimensions: int
    input_size: int
    template: TemplateName
    metric: Metric
    threshold: float
    meaning: str
    channels: Literal["rgb", "bgr"] = "rgb"
    offset: float = 0.0
    scale: float = 1.0
    arithmetic: str = ""

    @property
    def geometry(self) -> Template:
        """The template for chips of this size."""
        return TEMPLATES[self.template].scaled(self.input_size)

    @property
    def preprocessing(self) -> str:
        """How a picture becomes the network's input, in words: vectors of two ways cannot be compared."""
        side = self.input_size
        return f"{self.geometry.alignment} {side}x{side} {self.channels} (v-{self.offset:g})/{self.scale:g}"

    @cached_property
    def fingerprint(self) -> str:
        """32 hex digits of all that decides a vector beside the picture, the way of aligning included.

        Caches are keyed by it.
        """
        facts = (
            self.version, self.sha256, self.dimensions, self.template, self.preprocessing, self.arithmetic,
        )  # fmt: skip
        return hashlib.blake2b(repr(facts).encode(), digest_size=16).hexdigest()
