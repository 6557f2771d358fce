"""From a model's files to a model that serves: what is active in the store, or the user's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from phalanx.engines.choice import EngineChoice
from phalanx.engines.runner import BatchFacts, Runner
from phalanx.engines.text.load import TextFiles, load_text_model
from phalanx.engines.text.local import find_local_model
from phalanx.engines.text.model import TextModel
from phalanx.engines.text.spec import TextSpec
from phalanx.errors import Unavailable
from phalanx.models.conversion import convert_bert
from phalanx.models.store import ModelStore
from phalanx.models.version import Version
from phalanx.services.serving.text_models import ServedText


class LoadedText(NamedTuple):
    """A model in memory, with what is known of it besides. `created` is in epoch seconds."""

    model: TextModel
    aliases: tuple[str, ...]
    licence: str
    created: int


def load_active(store: ModelStore, name: str, choice: EngineChoice, *, max_tokens: int | None) -> LoadedText:
    """Load the active version of a model of the store.

    `max_tokens` replaces the model's own limit, up to its positions. Raises `Unavailable` saying what to do.
    """
    return load_version(store, store.active(name), choice, max_tokens=max_tokens)


def load_version(store: ModelStore, version: Version, choice: EngineChoice, *, max_tokens: int | None) -> LoadedText:
    """Load one version of a model of the store. Raises `Unavailable` saying what to do."""
    model = load_text_model(_spec_of(version, max_tokens), TextFiles.of_version(version.folder), choice)
    entry = store.catalogue.find(version.name)
    return LoadedText(model, tuple(entry.aliases) if entry else (), version.licence.spdx, made_at(version))


def load_own(path: Path, choice: EngineChoice, *, cache: Path, max_tokens: int | None) -> LoadedText:
    """Load a model of the user's own, which nobody pinned; a graph that has to be made is kept in `cache`.

    Raises `Unavailable` saying what is missing.
    """
    local = find_local_model(path, cache=cache, convert=convert_bert, max_tokens=max_tokens)
    return LoadedText(load_text_model(local.spec, local.files, choice), (), "", int(path.stat().st_mtime))


def serve_text(
    loaded: LoadedText, *, token_budget: int, max_waiting_tokens: int, on_batch: Callable[[BatchFacts], None]
) -> ServedText:
    """Give a model its runner, which is not started."""
    model, aliases, licence, created = loaded
    runner = Runner(
        model, name=model.spec.name, token_budget=token_budget, max_waiting_tokens=max_waiting_tokens, on_batch=on_batch
    )
    return ServedText(model, runner, aliases=aliases, licence=licence, created=created)


def made_at(version: Version) -> int:
    """Return when a version was made here, in epoch seconds."""
    return int((version.folder / "manifest.json").stat().st_mtime)


def _spec_of(version: Version, max_tokens: int | None) -> TextSpec:
    text = version.text
    if text is None or version.dimensions is None:
        raise Unavailable(f"{version.name} is a model for {version.task}, none for text; set MODEL_NAME to another")
    if max_tokens is not None and max_tokens > text.positions:
        raise Unavailable(f"MAX_TOKENS is {max_tokens}; {version.name} has room for {text.positions}")
    return TextSpec(
        name=version.name, version=version.version, sha256=version.sha256, dimensions=version.dimensions,
        max_tokens=max_tokens or text.max_tokens, positions=text.positions, pooling=text.pooling, prompts=text.prompts,
    )  # fmt: skip
