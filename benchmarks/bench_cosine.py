"""Vectors against the reference: cosine and token counts of every text, and the same text alone and in a batch."""

from __future__ import annotations

import sys

import numpy as np

from measuring.corpus import Corpus, reference
from measuring.lines import LineProcess
from measuring.own import cosines, open_own, unpacked
from measuring.report import Row, main, say

REFERENCE_BAR = 0.9999
ALONE_BAR = {"bf16": 0.99998, "f32": 0.999999}
BATCH = 64
BATCHES = 6
ENGINES = (("openvino", "auto"), ("openvino", "f32"), ("onnxruntime", "f32"))


def measure() -> list[Row]:
    """Return the rows of each engine and precision."""
    rows: list[Row] = []
    for engine, precision in ENGINES:
        with open_own(precision, engine=engine) as (process, facts):
            name = f"{facts['engine']} {facts['precision']}"
            say(name)
            rows += [*_against_reference(process, name), _alone_and_together(process, name, facts["precision"])]
    return rows


def _against_reference(process: LineProcess, name: str) -> list[Row]:
    expected = reference()
    answer = process.ask("vectors", texts=expected.texts, together=False)
    found = cosines(unpacked(answer["vectors"]), expected.vectors)
    worst = int(found.argmin())
    unequal = sum(ours != theirs for ours, theirs in zip(answer["tokens"], expected.tokens, strict=True))
    return [
        Row(
            claim=f"{name}: lowest cosine to the reference", measured=float(found[worst]), unit="cosine", better="higher",
            bar=REFERENCE_BAR, noise=1e-4, note=f"{len(found)} texts; lowest: {expected.texts[worst][:32]!r}",
        ),
        Row(
            claim=f"{name}: texts with another token count", measured=unequal, unit="texts", better="lower", bar=0,
            note=f"of {len(found)}",
        ),
    ]  # fmt: skip


def _alone_and_together(process: LineProcess, name: str, precision: str) -> Row:
    """Compare each text's vector alone with its vector in batches of 64 mixed lengths, drawn anew."""
    texts = reference().texts + Corpus(2).mixed(72)
    alone = unpacked(process.ask("vectors", texts=texts, together=False)["vectors"])
    draw = np.random.default_rng(3)
    lowest = 1.0
    for _ in range(BATCHES):
        chosen = draw.permutation(len(texts))[:BATCH]
        together = unpacked(process.ask("vectors", texts=[texts[i] for i in chosen], together=True)["vectors"])
        lowest = min(lowest, float(cosines(alone[chosen], together).min()))
    return Row(
        claim=f"{name}: lowest cosine, alone and among {BATCH}", measured=lowest, unit="cosine", better="higher",
        bar=ALONE_BAR[precision], noise=1e-5, note=f"{BATCHES} batches of mixed lengths",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(measure, __doc__))
