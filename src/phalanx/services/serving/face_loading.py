"""From the files of face models to models that serve."""

from __future__ import annotations

from collections.abc import Callable

from phalanx.engines.choice import EngineChoice
from phalanx.engines.face.load import load_face_embedder
from phalanx.engines.face.opening import open_detector
from phalanx.engines.face.spec import FaceSpec
from phalanx.engines.face.yunet_detector import open_yunet
from phalanx.engines.runner import BatchFacts, Runner
from phalanx.errors import Unavailable
from phalanx.models.store import ModelStore
from phalanx.models.version import Version
from phalanx.ports.engines import Engine, P, R
from phalanx.services.serving.face_models import ServedDetector, ServedEmbedder
from phalanx.services.serving.text_loading import made_at

FULL_RANGE = "blazeface-full-range"
SHORT_RANGE = "blazeface-short-range"
DEFAULT_EMBEDDER = "dlib-resnet-v1"

ITEM_COST = 16
"""What the queue counts for one image or face: the least there is."""
BATCH_ITEMS = 16
"""Images or faces in one batch: a caller who comes while it runs waits for tens of milliseconds."""
MAX_WAITING_ITEMS = 512
"""Two seconds of work at 250 images a second."""

OnBatch = Callable[[str, str], Callable[[BatchFacts], None]]
"""Makes, for the names of a model and of its version, what notes its batches."""


def load_detector(full: Version, short: Version, choice: EngineChoice, on_batch: OnBatch) -> ServedDetector:
    """Load the detector of two networks, whose runner is not started. Raises `Unavailable` saying what to run."""
    weights = (full.sha256, short.sha256)
    detector = open_detector(full.path("model.tflite"), short.path("model.tflite"), choice, weights=weights)
    version = f"{full.version}+{short.version}"
    return ServedDetector(
        FULL_RANGE, version, detector, _runner(detector, FULL_RANGE, version, on_batch),
        sha256=full.sha256, licence=full.licence.spdx, created=made_at(full),
    )  # fmt: skip


def yunets_of(store: ModelStore) -> list[str]:
    """Return the detectors of the user's own that are active in the store."""
    return [
        one.name for one in store.models()
        if one.pointer and one.versions and _architecture(one.versions[0]) == "yunet"
    ]  # fmt: skip


def load_yunet(version: Version, choice: EngineChoice, on_batch: OnBatch) -> ServedDetector:
    """Load a detector of the user's own, whose runner is not started. Raises `Unavailable` saying what is wrong with it."""
    detector = open_yunet(version.path("model.onnx"), choice)
    runner = _runner(detector, version.name, version.version, on_batch)
    return ServedDetector(
        version.name, version.version, detector, runner, sha256=version.sha256, licence=version.licence.spdx,
        created=made_at(version),
    )  # fmt: skip


def detectors_of(store: ModelStore) -> dict[str, tuple[Version, Version, float]]:
    """Return the active detectors by the name of their version, each with its two networks and its weight.

    Versions of full range share the callers; short range is the one with most weight in each. Raises `Unavailable`.
    """
    short = store.active(SHORT_RANGE)
    return {
        f"{full.version}+{short.version}": (full, short, weight) for full, weight in store.active_versions(FULL_RANGE)
    }


def embedders_of(store: ModelStore) -> list[str]:
    """Return the face embedders that are active in the store, the default first; the default alone if none is."""
    there = [one.name for one in store.models() if one.pointer and one.versions and one.versions[0].face]
    return sorted(there, key=lambda name: (name != DEFAULT_EMBEDDER, name)) or [DEFAULT_EMBEDDER]


def load_embedder(store: ModelStore, version: Version, choice: EngineChoice, on_batch: OnBatch) -> ServedEmbedder:
    """Load an embedder, whose runner is not started. Raises `Unavailable` saying what to run."""
    embedder = load_face_embedder(_spec_of(version), version.path("model.onnx"), choice)
    entry = store.catalogue.find(version.name)
    aliases = tuple(entry.aliases) if entry else ()
    runner = _runner(embedder, version.name, version.version, on_batch)
    return ServedEmbedder(embedder, runner, aliases, version.licence.spdx, made_at(version))


def _runner(engine: Engine[P, R], name: str, version: str, on_batch: OnBatch) -> Runner[P, R]:
    return Runner(
        engine, name=name, token_budget=ITEM_COST * BATCH_ITEMS, max_items=BATCH_ITEMS,
        max_waiting_tokens=ITEM_COST * MAX_WAITING_ITEMS, on_batch=on_batch(name, version),
    )  # fmt: skip


def _architecture(version: Version) -> str:
    return version.detection.architecture if version.detection else ""


def _spec_of(version: Version) -> FaceSpec:
    face = version.face
    if face is None or version.dimensions is None:
        raise Unavailable(f"{version.name} is a model for {version.task}, none for face vectors")
    return FaceSpec(
        name=version.name, version=version.version, sha256=version.sha256, dimensions=version.dimensions,
        input_size=face.input_size, template=face.template, metric=face.metric, threshold=face.threshold,
        meaning=face.meaning, channels=face.channels, offset=face.offset, scale=face.scale,
    )  # fmt: skip
