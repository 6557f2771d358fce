"""The face models of this worker: one detector, and embedders by name."""

from __future__ import annotations

from dataclasses import dataclass

from phalanx.contract.vector import Vector
from phalanx.engines.face.detector import FaceDetector, Looks
from phalanx.engines.face.embedder import FaceEmbedder, PreparedFace
from phalanx.engines.face.facts import Face
from phalanx.engines.runner import Runner
from phalanx.errors import ModelNotFound, Unavailable


@dataclass(frozen=True, slots=True)
class ServedDetector:
    """A face detector with the runner that feeds it."""

    name: str
    version: str
    detector: FaceDetector
    runner: Runner[Looks, list[Face]]


@dataclass(frozen=True, slots=True)
class ServedEmbedder:
    """A network of face vectors with the runner that feeds it."""

    embedder: FaceEmbedder
    runner: Runner[PreparedFace, Vector]
    aliases: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The model's name."""
        return self.embedder.spec.name

    @property
    def version(self) -> str:
        """The version's name."""
        return self.embedder.spec.version


class FaceModels:
    """What face operations run on. A model that is missing refuses with the reason, and nothing else does without it."""

    def __init__(self) -> None:
        self._detector: ServedDetector | None = None
        self._embedders: dict[str, ServedEmbedder] = {}
        self._names: dict[str, str] = {}
        self._why_no_detector = self._why_no_embedder = "it is loading"

    def serve_detector(self, served: ServedDetector) -> None:
        """Serve a detector."""
        self._detector = served

    def serve_embedder(self, served: ServedEmbedder) -> None:
        """Serve an embedder under its name and aliases; the first one is the default."""
        self._embedders[served.name] = served
        for name in (served.name, *served.aliases):
            self._names[name.lower()] = served.name

    def mark_missing(self, *, detector: str | None = None, embedder: str | None = None) -> None:
        """Remember why a model is not here; the reason says which command mends it."""
        self._why_no_detector = detector or self._why_no_detector
        self._why_no_embedder = embedder or self._why_no_embedder

    def detector(self) -> ServedDetector:
        """Return the detector. Raises `Unavailable`."""
        if self._detector is None:
            raise Unavailable(f"the face detector is not ready: {self._why_no_detector}", retry_after_s=5)
        return self._detector

    def embedder(self, name: str | None = None) -> ServedEmbedder:
        """Return the embedder of that name or alias, or the default. Raises `ModelNotFound` or `Unavailable`."""
        if not self._embedders:
            raise Unavailable(f"the model of face vectors is not ready: {self._why_no_embedder}", retry_after_s=5)
        if name is None:
            return next(iter(self._embedders.values()))
        found = self._names.get(name.lower())
        if found is None:
            there = ", ".join(self._embedders)
            raise ModelNotFound(f"this worker does not serve the face model {name!r}; it serves {there}", param="model")
        return self._embedders[found]
