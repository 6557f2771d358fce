"""`phalanx models quantize`: the int8 form of a model, which serves only if it is good enough."""

from __future__ import annotations

import tempfile
from pathlib import Path

import typer
from rich.console import Console

from phalanx.cli.model_store import Name, open_store
from phalanx.errors import Conflict, InvalidRequest, Unavailable
from phalanx.models.store import ModelStore
from phalanx.models.version import Version

SUFFIX = "int8"
EXAMPLE = "Example: phalanx models quantize all-MiniLM-L6-v2 --int8"


def quantize(
    context: typer.Context,
    name: Name,
    int8: bool = typer.Option(False, "--int8", help="Weights and activations in 8 bits, with static scales."),
    activate: bool = typer.Option(True, help="Serve it when it is good enough."),
) -> None:
    """Make a smaller, faster form of a model; refused below cosine 0.99 to float32 on texts of every kind."""
    if not int8:
        raise InvalidRequest("say what to quantise to: --int8")
    # The libraries that write graphs are loaded for this command only.
    from phalanx.models.conversion.quantize import GOLDEN, REQUIRED_COSINE
    from phalanx.models.conversion.quantize import quantize as make_int8

    console = Console(stderr=True, highlight=False)
    store = open_store(context)
    origin = _float_version(store, name)
    if origin.text is None:
        raise InvalidRequest(f"{origin.name} is a model for {origin.task}; only text models can be quantised")
    with tempfile.TemporaryDirectory(prefix="phalanx-int8-") as folder:
        out = Path(folder)
        report = make_int8(
            origin.folder,
            out,
            pooling=origin.text.pooling,
            max_tokens=origin.text.max_tokens,
            note=lambda line: console.print(line, markup=False),
        )
        console.print(
            f"cosine to float32: {report.min_cosine:.5f} at least, {report.mean_cosine:.5f} on average; "
            f"{report.speed_ratio:.2f} times as fast; {report.size / 2**20:.0f} MiB",
            soft_wrap=True,
        )
        if not report.acceptable:
            raise Unavailable(
                f"refused: {report.worst_text[:60]!r} came back at cosine {report.min_cosine:.5f}, "
                f"at least {REQUIRED_COSINE} is needed; {origin.version} goes on serving"
            )
        made = _add(store, origin, {file: out / file for file in ("model.onnx", GOLDEN)})
    if activate:
        store.activate(made.name, made.version)
    Console(highlight=False).print(f"{made.name} {made.version} is {'active' if activate else 'ready'}", soft_wrap=True)


def _float_version(store: ModelStore, name: str) -> Version:
    """Return the active version, or, where that is a variant, the one it was made of."""
    active = store.active(name)
    if active.variant_of is None:
        return active
    return next(version for version in store.versions(name) if version.version == active.variant_of)


def _add(store: ModelStore, origin: Version, files: dict[str, Path]) -> Version:
    """Add the variant; one that is there already is the same, since its name is the digest of its graph."""
    try:
        return store.add_variant(origin.name, origin.version, SUFFIX, files)
    except Conflict:
        return next(one for one in store.versions(origin.name) if one.variant_of == origin.version)
