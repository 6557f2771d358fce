"""The models of a worker: where they are, how they are loaded and what is counted of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Literal

from phalanx.contract.services import ServiceName
from phalanx.engines.choice import EngineChoice
from phalanx.engines.runner import BatchFacts
from phalanx.errors import PhalanxError
from phalanx.models.catalogue import load_catalogue
from phalanx.models.store import ModelStore
from phalanx.models.version import Version
from phalanx.services.serving.face_loading import (
    DEFAULT_EMBEDDER,
    FULL_RANGE,
    SHORT_RANGE,
    detectors_of,
    embedders_of,
    load_detector,
    load_embedder,
    load_yunet,
    yunets_of,
)
from phalanx.services.serving.face_models import FaceModels
from phalanx.services.serving.rollouts import Candidate, Line
from phalanx.services.serving.roster import Roster
from phalanx.services.serving.stand_ins import detector_stand_in, embedder_stand_in, text_stand_in
from phalanx.services.serving.text_loading import LoadedText, load_own, load_version, serve_text
from phalanx.services.serving.text_models import ModelRegistry, ServedText
from phalanx.settings import Settings
from phalanx.telemetry import Metrics

TOKEN_BUDGET = 1024
MAX_WAITING_TOKENS = 128 * 1024

Kind = Literal["text", "faces"]
"""What models are for."""


def needed_rosters(
    served: Collection[ServiceName],
    registry: ModelRegistry,
    faces: FaceModels,
    store: ModelStore,
    *,
    is_alone: bool,
    remote: Mapping[ServiceName, str] = MappingProxyType({}),
) -> tuple[Roster[Any], ...]:
    """Return the models that these services run on; those of the others refuse with the reason.

    A worker of all services is ready with the text model, and serves what else there is; one of some services that were
    named, which `is_alone` says, is not ready without theirs. Services that are `remote`, each by the variable that says so,
    need no model here. Aligning faces is one of many operations on images: images are
    served without the detector.
    """
    served = set(served) - set(remote)
    detects = {"face-detection", "face-embedding"} & served
    wanted: list[tuple[Roster[Any], str, bool, ServiceName]] = [
        (registry, registry.default, "text" in served, "text"),
        (faces.detectors, FULL_RANGE, bool(detects) or "image-processing" in served, "face-detection"),
        (faces.embedders, DEFAULT_EMBEDDER, "face-embedding" in served, "face-embedding"),
    ]
    # The default one, also where only a detector of the user's own is here.
    faces.detectors.know(FULL_RANGE)
    # What is required is waited for from now on, also before loading begins.
    if is_alone and detects:
        faces.detectors.is_required = True
        faces.detectors.expect(FULL_RANGE)
    if is_alone and "face-embedding" in served:
        faces.embedders.is_required = True
        for name in _embedders_there(store):
            faces.embedders.expect(name)
    for roster, name, is_wanted, service in wanted:
        if not is_wanted:
            setting = remote.get(service)
            said = f"this worker has no model for the service {service!r}: by {setting} it is elsewhere"
            roster.lack(name, said if setting else f"this worker does not have the service {service!r}")
    return tuple(roster for roster, _, is_wanted, _ in wanted if is_wanted)


def _embedders_there(store: ModelStore) -> list[str]:
    try:
        return embedders_of(store)
    except PhalanxError:
        return [DEFAULT_EMBEDDER]


def models_to_pull(settings: Settings) -> list[str]:
    """Return the models that the services of the settings run on by default, without one that is used as it lies."""
    served = settings.served - set(settings.remote)
    names = [settings.model_name] if "text" in served and settings.model_path is None else []
    if served & {"face-detection", "face-embedding", "image-processing"}:
        names += [FULL_RANGE, SHORT_RANGE]
    return [*names, DEFAULT_EMBEDDER] if "face-embedding" in served else names


def open_store(settings: Settings) -> ModelStore:
    """Return the model store that the settings name."""
    return ModelStore(settings.models_dir, catalogue=load_catalogue())


def open_registry(settings: Settings) -> ModelRegistry:
    """Return a registry that waits for the model, under all names by which callers may ask for it meanwhile."""
    entry = None if settings.model_path else load_catalogue().find(settings.model_name)
    name = settings.model_path.name if settings.model_path else entry.name if entry else settings.model_name
    return ModelRegistry(name, tuple(entry.aliases) if entry else ())


@dataclass
class WorkerModels:
    """What a worker serves, as the settings and the store have it: one line for each model.

    `threads` is what an engine computes on: None stands for as many as the CPU quota allows. `only` leaves out the models
    of the other kind, and `rosters` all that are not among them.
    """

    settings: Settings
    metrics: Metrics
    registry: ModelRegistry
    face_models: FaceModels
    store: ModelStore
    threads: int | None = None
    only: Kind | None = None
    rosters: Sequence[Roster[Any]] = ()

    def lines(self) -> list[Line]:
        """Return the lines as of now: a model that was added to the store has one from then on. Looks into the store."""
        text = [] if self.only == "faces" else [self._text_line()]
        lines = text if self.only == "text" else [*text, *self._face_lines()]
        return [line for line in lines if any(line.roster is roster for roster in self.rosters)]

    def start_stand_ins(self) -> None:
        """Have stand-ins answer for the models of this worker that are missing or fail. Must run in the event loop."""
        for roster in self.rosters:
            if roster is self.registry and self.only != "faces":
                entry = None if self.settings.model_path else self.store.catalogue.find(self.settings.model_name)
                name = self.registry.default
                self.registry.stand_ins[name] = text_stand_in(name, entry, self.settings.max_tokens)
            elif roster is self.face_models.detectors and self.only != "text":
                self.face_models.detectors.stand_ins[FULL_RANGE] = detector_stand_in(FULL_RANGE)
            elif roster is self.face_models.embedders and self.only != "text":
                entry = self.store.catalogue.get(DEFAULT_EMBEDDER)
                self.face_models.embedders.stand_ins[DEFAULT_EMBEDDER] = embedder_stand_in(entry)
            for served in roster.stand_ins.values():
                served.runner.start()

    def _face_lines(self) -> list[Line]:
        try:
            named, yunets = embedders_of(self.store), yunets_of(self.store)
        except PhalanxError as error:
            # A manifest cannot be read: what else there is goes on.
            self.face_models.embedders.miss(DEFAULT_EMBEDDER, error.detail)
            named, yunets = [], []
        embedders = [
            Line(name, self.face_models.embedders, partial(self._embedders, name), frozenset((name,))) for name in named
        ]
        names = frozenset((FULL_RANGE, SHORT_RANGE))
        own = [
            Line(name, self.face_models.detectors, partial(self._yunets, name), frozenset((name,))) for name in yunets
        ]
        return [Line(FULL_RANGE, self.face_models.detectors, self._detectors, names), *own, *embedders]

    def _text_line(self) -> Line:
        name = self.registry.default
        if self.settings.model_path is not None:
            return Line(name, self.registry, self._own, frozenset())
        return Line(name, self.registry, self._texts, frozenset((name,)))

    def _choice(self) -> EngineChoice:
        settings = self.settings
        return EngineChoice(
            engine=settings.engine, device=settings.device, precision=settings.precision, threads=self.threads
        )

    def _own(self) -> Sequence[Candidate]:
        path, settings = self.settings.model_path, self.settings
        assert path is not None, "the line is for MODEL_PATH"

        def load() -> ServedText:
            cache = settings.data_dir / "converted"
            return self._served(load_own(path, self._choice(), cache=cache, max_tokens=settings.max_tokens))

        return [Candidate("", 1.0, load)]

    def _texts(self) -> Sequence[Candidate]:
        def load(version: Version) -> ServedText:
            return self._served(load_version(self.store, version, self._choice(), max_tokens=self.settings.max_tokens))

        return [
            Candidate(version.version, weight, partial(load, version))
            for version, weight in self.store.active_versions(self.settings.model_name)
        ]

    def _served(self, loaded: LoadedText) -> ServedText:
        spec = loaded.model.spec
        return serve_text(
            loaded, token_budget=TOKEN_BUDGET, max_waiting_tokens=MAX_WAITING_TOKENS,
            on_batch=batch_metrics(self.metrics, spec.name, spec.version),
        )  # fmt: skip

    def _detectors(self) -> Sequence[Candidate]:
        note = partial(batch_metrics, self.metrics)
        return [
            Candidate(name, weight, partial(load_detector, full, short, self._choice(), note))
            for name, (full, short, weight) in detectors_of(self.store).items()
        ]

    def _yunets(self, name: str) -> Sequence[Candidate]:
        note = partial(batch_metrics, self.metrics)
        return [
            Candidate(version.version, weight, partial(load_yunet, version, self._choice(), note))
            for version, weight in self.store.active_versions(name)
        ]

    def _embedders(self, name: str) -> Sequence[Candidate]:
        note: Any = partial(batch_metrics, self.metrics)
        return [
            Candidate(version.version, weight, partial(load_embedder, self.store, version, self._choice(), note))
            for version, weight in self.store.active_versions(name)
        ]


def batch_metrics(metrics: Metrics, model: str, version: str) -> Callable[[BatchFacts], None]:
    """Return what notes a batch; it runs on the engine thread, so the children are made beforehand."""
    labels = (model, version)
    queue, engine = (
        metrics.histogram("phalanx_queue_seconds", *labels),
        metrics.histogram("phalanx_engine_seconds", *labels),
    )
    size = metrics.histogram("phalanx_batch_tokens", *labels)
    padding, tokens = (
        metrics.counter("phalanx_padding_tokens", *labels),
        metrics.counter("phalanx_tokens", *labels),
    )

    def note(facts: BatchFacts) -> None:
        for seconds in facts.queue_s:
            queue.observe(seconds)
        engine.observe(facts.engine_s)
        size.observe(facts.padded_tokens)
        padding.inc(facts.padded_tokens - facts.tokens)
        tokens.inc(facts.tokens)

    return note
