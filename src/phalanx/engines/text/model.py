"""A text model: prepares texts, runs batches of them, says what its tokens are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from phalanx.contract.text import Text, Token, Truncate
from phalanx.contract.vector import Vector
from phalanx.engines.backends import Backend, Ids
from phalanx.engines.text.shapes import group, padded_length, padded_rows
from phalanx.engines.text.spec import TextSpec
from phalanx.engines.text.tokenizer import TextTokenizer
from phalanx.errors import InvalidRequest


@dataclass(frozen=True, slots=True, eq=False)
class PreparedText:
    """A text ready for the engine.

    `ids` is int64 `[used_tokens]`, special tokens included; `tokens` counts those of the text as sent (at least, if it
    was cut far beyond the limit). With `want_tokens` the result is a vector a token instead of one for the text.
    """

    ids: npt.NDArray[np.int64]
    tokens: int
    truncated: bool
    want_tokens: bool = False

    @property
    def length(self) -> int:
        """Tokens before padding."""
        return len(self.ids)

    @property
    def used_tokens(self) -> int:
        """Tokens that the vector is made of."""
        return len(self.ids)


class TextModel:
    """The engine of `ports.Engine`: `prepare` and `tokenize` on any thread, `run` on one."""

    def __init__(self, spec: TextSpec, tokenizer: TextTokenizer, backend: Backend) -> None:
        self.spec = spec
        self.backend = backend
        self._tokenizer = tokenizer

    def prepare(
        self, text: Text, *, truncate: Truncate = "end", prompt: str | None = None, want_tokens: bool = False
    ) -> PreparedText:
        """Tokenise a text, or take its token ids; `prompt` is the name of a prefix.

        Raises `InvalidRequest` (unknown prompt, id out of range, no token, not Unicode) and `TextTooLong`.
        """
        if want_tokens and self.backend.pooled:
            raise InvalidRequest(f"the graph of {self.spec.name!r} gives one vector a text, none for its tokens")
        prefix = self._prefix(prompt)
        if isinstance(text, str):
            tokens = self._tokenizer.encode(prefix + text, truncate)
        else:
            tokens = self._tokenizer.wrap(text, truncate, prompt=prefix)
        return PreparedText(np.array(tokens.ids, dtype=np.int64), tokens.total, tokens.truncated, want_tokens)

    def run(self, batch: Sequence[PreparedText]) -> list[Vector]:
        """Return a result an item, in order: the raw pooled vector, float32 `[d]`, not of unit length, or with
        `want_tokens` the vectors of its tokens, `[used_tokens, d]`, special tokens included."""
        results: list[Vector | None] = [None] * len(batch)
        lengths = [padded_length(item.length, self.spec.positions) for item in batch]
        for indices in group(lengths):
            rows = [batch[index] for index in indices]
            ids, mask = self._assemble(rows, lengths[indices[0]])
            for index, vector in zip(indices, self._pool(rows, self.backend.infer(ids, mask), mask), strict=True):
                results[index] = vector
        return [vector for vector in results if vector is not None]

    def tokenize(self, text: str, *, add_special_tokens: bool = True, prompt: str | None = None) -> list[Token]:
        """Return every token; offsets are in characters of the caller's text, tokens of the prompt have none."""
        prefix = self._prefix(prompt)
        return self._tokenizer.split(prefix + text, add_special_tokens=add_special_tokens, skip=len(prefix))

    def warm(self) -> None:
        """Run the shapes that come first: one text of each length, and full batches of the short ones."""
        limit = self.spec.max_tokens
        lengths = sorted({padded_length(n, self.spec.positions) for n in range(8, min(limit, 256) + 1, 8)})
        for length in lengths or [limit]:
            self.run([self._blank(length)])
        for length, rows in ((16, 8), (16, 64), (32, 32), (64, 16), (128, 8)):
            if length <= limit:
                self.run([self._blank(length)] * rows)

    def _prefix(self, prompt: str | None) -> str:
        if prompt is None:
            return ""
        if prompt not in self.spec.prompts:
            known = ", ".join(sorted(self.spec.prompts)) or "none"
            raise InvalidRequest(
                f"the model {self.spec.name!r} has no prompt {prompt!r}; it has {known}", param="prompt"
            )
        return self.spec.prompts[prompt]

    def _blank(self, length: int) -> PreparedText:
        return PreparedText(np.full(length, self._tokenizer.pad_id, dtype=np.int64), length, truncated=False)

    def _assemble(self, rows: Sequence[PreparedText], length: int) -> tuple[Ids, Ids]:
        """Return ids and mask, `[padded rows, length]`. Rows that only fill up attend to one token."""
        shape = (padded_rows(len(rows)), length)
        ids = np.full(shape, self._tokenizer.pad_id, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        mask[len(rows) :, 0] = 1
        for row, item in enumerate(rows):
            ids[row, : item.length] = item.ids
            mask[row, : item.length] = 1
        return ids, mask

    def _pool(self, rows: Sequence[PreparedText], output: Vector, mask: Ids) -> Iterator[Vector]:
        """Yield each row's result as an array of its own.

        Pooling is done here, in float32, rather than in the graph: there bfloat16 rounded the finished vectors and
        more than doubled their error, and the time is the same.
        """
        if self.backend.pooled:
            pooled = output.copy()
        elif self.spec.pooling == "cls":
            pooled = output[:, 0].copy()
        else:
            counts = mask.sum(axis=1, keepdims=True).astype(np.float32)
            pooled = np.matmul(mask[:, None, :].astype(np.float32), output)[:, 0] / counts
        for row, item in enumerate(rows):
            yield output[row, : item.length].copy() if item.want_tokens else pooled[row]
