"""Loads a text model from its files: tokeniser, backend, the precision that holds, golden check, warm-up."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from phalanx.engines.backends import Precision, open_backend
from phalanx.engines.choice import EngineChoice
from phalanx.engines.text.golden import check_golden, read_golden, require_golden
from phalanx.engines.text.model import TextModel
from phalanx.engines.text.spec import TextSpec
from phalanx.engines.text.tokenizer import TextTokenizer
from phalanx.errors import Unavailable

FIXED_SHAPES = ((1, 8), (1, 16))
"""One short text, alone: the most common call. A graph of its own for a shape takes 30 MiB and a fifth off the time;
from 32 tokens on it gains nothing."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TextFiles:
    """Where a model's graph and tokeniser are, and the vectors for its golden check if it brings some."""

    graph: Path
    tokenizer: Path
    golden: Path | None = None

    @classmethod
    def of_version(cls, folder: Path) -> TextFiles:
        """Return the files of a version in the store. Raises `Unavailable` naming what is missing."""
        golden = folder / "golden.json"
        files = cls(
            graph=folder / "model.onnx",
            tokenizer=folder / "tokenizer.json",
            golden=golden if golden.is_file() else None,
        )
        for path in (files.graph, files.tokenizer):
            if not path.is_file():
                raise Unavailable(
                    f"{path.name} is missing from version {folder.name}; run: phalanx models pull --force"
                )
        return files


def load_text_model(spec: TextSpec, files: TextFiles, choice: EngineChoice | None = None) -> TextModel:
    """Load a model, check it and warm it up.

    `precision` auto is bfloat16 where the processor has it and the golden check holds, else float32; int8 asks for a
    version that was quantised. Raises `Unavailable` when a file, the engine, the device or the precision is not to be
    had, or the golden check fails.
    """
    choice = choice or EngineChoice()
    tokenizer = TextTokenizer(files.tokenizer, max_tokens=spec.max_tokens)
    spec = replace(spec, tokenizer_sha256=tokenizer.sha256)

    def load(precision: Precision, *, fixed: bool) -> TextModel:
        backend = open_backend(
            files.graph,
            engine=choice.engine,
            device=choice.device,
            precision=precision,
            threads=choice.threads,
            fixed_shapes=FIXED_SHAPES if fixed else (),
        )
        _require(spec, backend.dimensions, backend.precision, choice.precision)
        arithmetic = f"{backend.name} {backend.device.partition(':')[0]} {backend.precision}"
        return TextModel(replace(spec, dimensions=backend.dimensions, arithmetic=arithmetic), tokenizer, backend)

    def exact() -> TextModel:
        return load("f32", fixed=False)

    golden = read_golden(files.golden) if files.golden else None
    wanted = choice.first_precision()
    model = load(wanted, fixed=True)
    result = check_golden(model, exact, golden)
    if not result.holds and choice.precision == "auto" and wanted == "bf16":
        log.warning("%s: bf16 reaches only cosine %.6f on %r; using f32", spec.name, result.cosine, result.text[:40])
        model = load("f32", fixed=True)
        result = check_golden(model, exact, golden)
    require_golden(model, result)
    model.warm()
    return model


def _require(spec: TextSpec, dimensions: int, precision: str, wanted: str) -> None:
    if spec.dimensions not in (0, dimensions):
        raise Unavailable(f"the graph of {spec.name} gives {dimensions} dimensions; {spec.dimensions} were expected")
    if wanted == "int8" and precision != "int8":
        raise Unavailable(
            f"PRECISION is int8, but version {spec.version} of {spec.name} is not quantised; "
            f"run: phalanx models quantize {spec.name} --int8"
        )
