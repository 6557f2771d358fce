"""Phalanx in process: the model and its runner as the worker composes them, without HTTP, asked over lines of JSON."""

from __future__ import annotations

import asyncio
import base64
import math
import os
import sys
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import uvloop
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent.parent))

from measuring.lines import answer_lines
from measuring.model import NAME, models_dir
from measuring.proc import rss_mib
from phalanx.app import MAX_WAITING_TOKENS, TOKEN_BUDGET
from phalanx.engines.backends import EngineName
from phalanx.engines.choice import EngineChoice
from phalanx.engines.text.model import PreparedText
from phalanx.errors import PhalanxError
from phalanx.models.catalogue import load_catalogue
from phalanx.models.store import ModelStore
from phalanx.ports import Submission
from phalanx.services.serving.text_loading import load_active, serve_text
from phalanx.services.serving.text_models import ServedText

SUBMITTED = 64
"""Texts in one submission: as many as are fed at a time in the concurrency claim."""


class Own:
    """The commands."""

    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        self._served: ServedText | None = None

    @property
    def served(self) -> ServedText:
        """The model, once loaded."""
        assert self._served is not None
        return self._served

    def load(self, precision: Literal["auto", "f32", "bf16"], engine: EngineName) -> dict[str, Any]:
        """Load the model and start its runner; say what runs it."""
        store = ModelStore(models_dir(), catalogue=load_catalogue())
        loaded = load_active(store, NAME, EngineChoice(engine=engine, precision=precision), max_tokens=None)
        self._served = serve_text(
            loaded, token_budget=TOKEN_BUDGET, max_waiting_tokens=MAX_WAITING_TOKENS, on_batch=lambda facts: None
        )
        self.served.runner.start()
        backend = self.served.model.backend
        return {"engine": backend.name, "precision": backend.precision, "cores": len(os.sched_getaffinity(0))}

    def encode(self, texts: list[str], vectors: bool = False) -> dict[str, Any]:
        """Embed texts through the runner, tokenising included; return seconds, tokens and, if wanted, unit vectors."""
        began = time.perf_counter()
        made, tokens = self._loop.run_until_complete(self._encode(texts))
        took = time.perf_counter() - began
        return {"seconds": took, "tokens": tokens, **({"vectors": packed(np.stack(made))} if vectors else {})}

    def feed(self, texts: list[str], seconds: float) -> dict[str, Any]:
        """Feed the runner prepared texts, 64 at a time, for a while; return the texts and tokens a second."""
        prepared = [self.served.model.prepare(text) for text in texts]
        return self._loop.run_until_complete(self._feed(prepared, seconds))

    def vectors(self, texts: list[str], together: bool) -> dict[str, Any]:
        """Return the engine's raw vectors of texts that are run in one batch, or each alone; and their token counts."""
        model = self.served.model
        prepared = [model.prepare(text) for text in texts]
        rows = model.run(prepared) if together else [model.run([one])[0] for one in prepared]
        return {"vectors": packed(np.stack(rows)), "tokens": [one.used_tokens for one in prepared]}

    def token_ids(self, texts: list[str]) -> dict[str, Any]:
        """Return the ids of each text, nothing cut."""
        return {"ids": [[token.id for token in self.served.model.tokenize(text)] for text in texts]}

    def shapes(self, count: int, most_tokens: int, seed: int) -> dict[str, Any]:
        """Run batches of `count` different (rows, tokens) shapes, in random order; return the memory before and after."""
        before = rss_mib(os.getpid())
        words = np.random.default_rng(seed)
        pairs = [(rows, length) for rows in range(1, 65) for length in range(3, 257) if rows * length <= most_tokens]
        words.shuffle(pairs)
        for rows, length in pairs[:count]:
            ids = words.integers(1000, 30000, size=(rows, length))
            self.served.model.run([PreparedText(row, length, truncated=False) for row in ids])
        return {"before_mib": before, "after_mib": rss_mib(os.getpid()), "shapes": len(pairs[:count])}

    async def _encode(self, texts: list[str]) -> tuple[list[NDArray[np.float32]], int]:
        model, under_way = self.served.model, []
        for start in range(0, len(texts), SUBMITTED):
            prepared = [model.prepare(text) for text in texts[start : start + SUBMITTED]]
            under_way.append((prepared, asyncio.ensure_future(self._submit(prepared))))
            # The engine is to begin while the next texts are tokenised.
            await asyncio.sleep(0)
        made = [vector for _, future in under_way for vector in await future]
        units = [vector / np.linalg.norm(vector) for vector in made]
        return units, sum(one.used_tokens for prepared, _ in under_way for one in prepared)

    async def _feed(self, prepared: list[PreparedText], seconds: float) -> dict[str, Any]:
        began = time.perf_counter()
        position = texts = tokens = 0
        while (elapsed := time.perf_counter() - began) < seconds:
            batch = [prepared[(position + offset) % len(prepared)] for offset in range(SUBMITTED)]
            position += SUBMITTED
            await self._submit(batch)
            texts += len(batch)
            tokens += sum(one.used_tokens for one in batch)
        return {"texts_per_s": texts / elapsed, "tokens_per_s": tokens / elapsed}

    async def _submit(self, prepared: list[PreparedText]) -> list[NDArray[np.float32]]:
        submissions = [Submission(one) for one in prepared]
        results = await self.served.runner.submit(submissions, tenant="bench", deadline=math.inf)
        made = []
        for result in results:
            if isinstance(result, PhalanxError):
                raise result
            made.append(result.value)
        return made


def packed(array: NDArray[np.float32]) -> dict[str, Any]:
    """Return an array as JSON can carry it."""
    return {"shape": array.shape, "float32": base64.b64encode(array.astype("<f4").tobytes()).decode()}


def main() -> None:
    """Answer until stdin ends."""
    own = Own()
    names = ("load", "encode", "feed", "vectors", "token_ids", "shapes")
    answer_lines({name: getattr(own, name) for name in names})


if __name__ == "__main__":
    main()
