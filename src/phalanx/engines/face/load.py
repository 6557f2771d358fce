"""Loads a network of face vectors: backend, the precision that holds, golden check, warm-up."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from phalanx.engines.backends import Precision
from phalanx.engines.backends.graphs import ImageBackend
from phalanx.engines.backends.images import open_image_backend
from phalanx.engines.choice import EngineChoice
from phalanx.engines.face.embedder import FaceEmbedder
from phalanx.engines.face.golden import check_golden, require_golden
from phalanx.engines.face.spec import FaceSpec
from phalanx.errors import Unavailable

log = logging.getLogger(__name__)


def load_face_embedder(spec: FaceSpec, graph: Path, choice: EngineChoice | None = None) -> FaceEmbedder:
    """Load a network, check it and warm it up.

    `precision` auto is bfloat16 where the processor has it and the golden check holds, else float32; int8, which is for
    texts, is taken as auto. Raises `Unavailable` when the graph does not fit the facts, the engine, device or precision
    is not to be had, or the golden check fails.
    """
    choice = choice or EngineChoice()
    if not graph.is_file():
        raise Unavailable(f"{graph.name} of {spec.name} is missing; run: phalanx models pull {spec.name} --force")

    def load(precision: Precision) -> FaceEmbedder:
        backend = open_image_backend(
            graph, engine=choice.engine, device=choice.device, precision=precision, threads=choice.threads
        )
        _require(spec, backend)
        arithmetic = f"{backend.name} {backend.device.partition(':')[0]} {backend.precision}"
        return FaceEmbedder(replace(spec, arithmetic=arithmetic), backend)

    def exact() -> FaceEmbedder:
        return load("f32")

    wanted = choice.first_precision()
    model = load(wanted)
    result = check_golden(model, exact)
    if not result.holds and choice.precision != "bf16" and wanted == "bf16":
        log.warning("%s: in bf16 vectors are off by %.4f of their length; using f32", spec.name, result.deviation)
        model = exact()
        result = check_golden(model, exact)
    require_golden(model, result)
    model.warm()
    return model


def _require(spec: FaceSpec, backend: ImageBackend) -> None:
    """Raise `Unavailable` unless the graph takes `[n, 3, side, side]` and gives `[n, dimensions]`."""
    taken, given = backend.input.shape, backend.outputs[0].shape
    side = spec.input_size
    fits = len(taken) == 4 and all(size in (None, want) for size, want in zip(taken[1:], (3, side, side), strict=True))
    if not fits:
        raise Unavailable(f"the graph of {spec.name} takes {_said(taken)}; [n, 3, {side}, {side}] was expected")
    if len(given) != 2 or given[1] not in (None, spec.dimensions):
        raise Unavailable(f"the graph of {spec.name} gives {_said(given)}; [n, {spec.dimensions}] was expected")


def _said(shape: tuple[int | None, ...]) -> str:
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"
