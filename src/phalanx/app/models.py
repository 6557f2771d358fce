"""The models of a worker: where they are, how they are loaded and what is counted of them."""

from __future__ import annotations

from collections.abc import Callable

from phalanx.engines.choice import EngineChoice
from phalanx.engines.runner import BatchFacts
from phalanx.models.catalogue import load_catalogue
from phalanx.models.store import ModelStore
from phalanx.services.loading import load_active, load_own, serve_text
from phalanx.services.models import ModelRegistry, ServedText
from phalanx.settings import Settings
from phalanx.telemetry import Metrics

TOKEN_BUDGET = 1024
MAX_WAITING_TOKENS = 128 * 1024


def open_store(settings: Settings) -> ModelStore:
    """Return the model store that the settings name."""
    return ModelStore(settings.models_dir, catalogue=load_catalogue())


def open_registry(settings: Settings) -> ModelRegistry:
    """Return a registry that waits for the model, under all names by which callers may ask for it meanwhile."""
    entry = None if settings.model_path else load_catalogue().find(settings.model_name)
    name = settings.model_path.name if settings.model_path else entry.name if entry else settings.model_name
    registry = ModelRegistry(name)
    registry.mark_missing(name, "it is loading", tuple(entry.aliases) if entry else ())
    return registry


def load_text(settings: Settings, metrics: Metrics, threads: int | None = None) -> ServedText:
    """Load the text model into an engine. Takes seconds; raises what the loader raises."""
    choice = EngineChoice(engine=settings.engine, device=settings.device, precision=settings.precision, threads=threads)
    if settings.model_path is not None:
        cache = settings.data_dir / "converted"
        loaded = load_own(settings.model_path, choice, cache=cache, max_tokens=settings.max_tokens)
    else:
        loaded = load_active(open_store(settings), settings.model_name, choice, max_tokens=settings.max_tokens)
    return serve_text(
        loaded, token_budget=TOKEN_BUDGET, max_waiting_tokens=MAX_WAITING_TOKENS,
        on_batch=batch_metrics(metrics, loaded.model.spec.name),
    )  # fmt: skip


def batch_metrics(metrics: Metrics, model: str) -> Callable[[BatchFacts], None]:
    """Return what notes a batch; it runs on the engine thread, so the children are made beforehand."""
    queue, engine = (
        metrics.histogram("phalanx_queue_seconds", model),
        metrics.histogram("phalanx_engine_seconds", model),
    )
    size, padding = metrics.histogram("phalanx_batch_tokens", model), metrics.counter("phalanx_padding_tokens", model)
    tokens = metrics.counter("phalanx_tokens", model)

    def note(facts: BatchFacts) -> None:
        for seconds in facts.queue_s:
            queue.observe(seconds)
        engine.observe(facts.engine_s)
        size.observe(facts.padded_tokens)
        padding.inc(facts.padded_tokens - facts.tokens)
        tokens.inc(facts.tokens)

    return note
