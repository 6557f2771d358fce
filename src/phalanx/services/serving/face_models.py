"""The face models of this worker: detectors and embedders, each by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

from phalanx.contract.models import Model
from phalanx.contract.vector import Vector
from phalanx.engines.face.detector import THRESHOLD, FaceDetector, Looks, Mode, Unopened
from phalanx.engines.face.detector_golden import MAX_DEVIATION_OF_OTHERS, deviation, portrait
from phalanx.engines.face.embedder import FaceEmbedder, PreparedFace
from phalanx.engines.face.facts import Face
from phalanx.engines.face.framing import Image
from phalanx.engines.face.golden import faces
from phalanx.engines.runner import Runner
from phalanx.errors import InvalidRequest
from phalanx.services.serving.roster import Roster, nothing
from phalanx.services.serving.text_models import stray_cosine


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class ServedDetector:
    """A face detector with the runner that feeds it. `sha256` is that of full range."""

    name: str
    version: str
    detector: FaceDetector
    runner: Runner[Looks | Unopened, list[Face]]
    aliases: tuple[str, ...] = ()
    sha256: str = ""
    licence: str = ""
    created: int = 0
    is_simulated: bool = False

    @property
    def threads(self) -> int:
        """How many threads one batch is computed on."""
        return self.detector.backend.threads

    @property
    def estimated(self) -> list[str]:
        """The landmarks that the detector does not see but that follow from others."""
        return list(self.detector.estimated)

    def prepare(self, image: Image, *, wanted: str = "auto", min_score: float = THRESHOLD) -> Looks:
        """Make an upright RGB image, uint8 `[height, width, 3]`, ready. `wanted` is a way to look, or this detector's name.

        Raises `InvalidRequest` for another detector's name, or a way to look that this one has not.
        """
        for mode in self.detector.modes:
            if wanted == mode or (
                mode == "auto" and wanted.lower() in (self.name.lower(), *map(str.lower, self.aliases))
            ):
                return self.detector.prepare(image, mode=mode, min_score=min_score)
        ways = ", ".join(self.detector.modes)
        raise InvalidRequest(
            f"detector is {wanted!r}; the faces here are found by {self.name}, which has {ways}", param="detector"
        )

    def describe(self) -> Model:
        """Return its facts."""
        backend = self.detector.backend
        return Model(
            id=self.name, created=self.created, task="face-detection", version=self.version, sha256=self.sha256,
            licence=self.licence, device=backend.device, precision=backend.precision, aliases=self.aliases,
        )  # fmt: skip

    def canary(self) -> Looks:
        """Return a portrait, prepared."""
        return self.detector.prepare(portrait())

    def strays(self, first: list[Face], now: list[Face]) -> str | None:
        """Return how far the portrait's face is from where it was, when that is too far."""
        if len(first) != 1:
            return f"{len(first)} faces where there is one"
        far = deviation(now, first[0])
        return None if far <= MAX_DEVIATION_OF_OTHERS else f"a face {far:.3f} of its width from where it was"

    @property
    def release(self) -> Callable[[], None]:
        """What ends the detector's threads."""
        return self.detector.close


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class ServedEmbedder:
    """A network of face vectors with the runner that feeds it."""

    embedder: FaceEmbedder
    runner: Runner[PreparedFace, Vector]
    aliases: tuple[str, ...] = ()
    licence: str = ""
    created: int = 0
    is_simulated: bool = False

    @property
    def name(self) -> str:
        """The model's name."""
        return self.embedder.spec.name

    @property
    def version(self) -> str:
        """The version's name."""
        return self.embedder.spec.version

    @property
    def threads(self) -> int:
        """How many threads one batch is computed on."""
        return self.embedder.backend.threads

    def describe(self) -> Model:
        """Return its facts."""
        spec, backend = self.embedder.spec, self.embedder.backend
        return Model(
            id=spec.name, created=self.created, task="face-embedding", version=spec.version, sha256=spec.sha256,
            dimensions=spec.dimensions, licence=self.licence, device=backend.device, precision=backend.precision,
            aliases=self.aliases,
        )  # fmt: skip

    def canary(self) -> PreparedFace:
        """Return an aligned face, prepared."""
        return self.embedder.prepare(faces(self.embedder.spec.input_size)[0])

    def strays(self, first: Vector, now: Vector) -> str | None:
        """Return the cosine of two vectors when it is too low."""
        return stray_cosine(first, now)

    @property
    def release(self) -> Callable[[], None]:
        """There is nothing but memory."""
        return nothing


class FaceModels:
    """What face operations run on. A model that is missing refuses with the reason, and nothing else does without it."""

    def __init__(self) -> None:
        self.detectors: Roster[ServedDetector] = Roster("face detector")
        self.embedders: Roster[ServedEmbedder] = Roster("face model")

    def detector(self, caller: str | None = None, wanted: str | None = None) -> ServedDetector:
        """Return the detector in the version for a caller, without one in that with most weight.

        `wanted` is its name or alias, or a way in which the default one looks. Raises `InvalidRequest`, `Unavailable`.
        """
        name = None if wanted in (None, *get_args(Mode)) else wanted
        if name is not None and self.detectors.find(name) is None:
            there = ", ".join((*get_args(Mode), *sorted(self.detectors.rollouts())))
            raise InvalidRequest(f"detector is {name!r}; this worker has {there}", param="detector")
        return self.detectors.heaviest(name) if caller is None else self.detectors.choose(name, caller)

    def embedder(self, name: str | None = None, caller: str | None = None) -> ServedEmbedder:
        """Return the embedder of that name or alias, or the default, in the version for a caller.

        Without one, in the version with most weight. Raises `ModelNotFound` or `Unavailable`.
        """
        return self.embedders.heaviest(name) if caller is None else self.embedders.choose(name, caller)
