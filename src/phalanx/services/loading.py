"""From a model's files to a model that serves: what is active in the store, or the user's own."""

from __future__ import annotations

from collections.abc import Callable

from phalanx.engines.runner import BatchFacts, Runner
from phalanx.engines.text.load import EngineChoice, TextFiles, load_text_model
from phalanx.engines.text.model import TextModel
from phalanx.engines.text.spec import TextSpec
from phalanx.errors import Unavailable
from phalanx.models.store import ModelStore
from phalanx.models.version import Version
from phalanx.services.models import ServedText


def served_from_store(
    store: ModelStore,
    name: str,
    choice: EngineChoice,
    *,
    max_tokens: int | None,
    token_budget: int,
    max_waiting_tokens: int,
    on_batch: Callable[[BatchFacts], None],
) -> ServedText:
    """Load the active version of a model; its runner is not started.

    `max_tokens` replaces the model's own limit, up to its positions. Raises `Unavailable` saying what to do.
    """
    version = store.active(name)
    spec = _spec_of(version, max_tokens)
    model = load_text_model(spec, TextFiles.of_version(version.folder), choice)
    entry = store.catalogue.find(version.name)
    aliases = tuple(entry.aliases) if entry else ()
    created = int((version.folder / "manifest.json").stat().st_mtime)
    return serve_model(
        model,
        aliases=aliases,
        licence=version.licence.spdx,
        created=created,
        token_budget=token_budget,
        max_waiting_tokens=max_waiting_tokens,
        on_batch=on_batch,
    )


def serve_model(
    model: TextModel,
    *,
    aliases: tuple[str, ...],
    licence: str,
    created: int,
    token_budget: int,
    max_waiting_tokens: int,
    on_batch: Callable[[BatchFacts], None],
) -> ServedText:
    """Give a model its runner."""
    runner = Runner(
        model, name=model.spec.name, token_budget=token_budget, max_waiting_tokens=max_waiting_tokens, on_batch=on_batch
    )
    return ServedText(model, runner, aliases=aliases, licence=licence, created=created)


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
