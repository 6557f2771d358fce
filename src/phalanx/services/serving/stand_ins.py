"""Stand-ins for models that are missing or fail, where the operator wants them: answers of the right form that mean nothing."""

from __future__ import annotations

from phalanx.engines.face.spec import FaceSpec
from phalanx.engines.face.stand_in import StandInDetector, StandInEmbedder
from phalanx.engines.runner import Runner
from phalanx.engines.stand_in import SIMULATED
from phalanx.engines.text.spec import TextSpec
from phalanx.engines.text.stand_in import StandInTextModel
from phalanx.models.catalogue import Entry
from phalanx.services.serving.face_models import ServedDetector, ServedEmbedder
from phalanx.services.serving.text_models import ServedText

DIMENSIONS = 384
MAX_TOKENS = 256
"""Of a text model that no catalogue knows: those of the default one."""


def text_stand_in(name: str, entry: Entry | None, max_tokens: int | None) -> ServedText:
    """Return a stand-in for a text model, by the catalogue's facts where it has some. Its runner is not started."""
    text = entry.text if entry else None
    limit = max_tokens or (text.max_tokens if text else MAX_TOKENS)
    spec = TextSpec(
        name=name, version=SIMULATED, sha256="", dimensions=(entry and entry.dimensions) or DIMENSIONS,
        max_tokens=limit, positions=max(limit, text.positions if text else limit), prompts=text.prompts if text else {},
    )  # fmt: skip
    model = StandInTextModel(spec)
    aliases = tuple(entry.aliases) if entry else ()
    return ServedText(model, Runner(model, name=name), aliases=aliases, is_simulated=True)


def detector_stand_in(name: str) -> ServedDetector:
    """Return a stand-in for the face detector. Its runner is not started."""
    detector = StandInDetector()
    return ServedDetector(name, SIMULATED, detector, Runner(detector, name=name), is_simulated=True)


def embedder_stand_in(entry: Entry) -> ServedEmbedder:
    """Return a stand-in for a network of face vectors of the catalogue. Its runner is not started."""
    face, dimensions = entry.face, entry.dimensions
    assert face is not None, "the entry is of a network of face vectors"
    assert dimensions is not None, "such entries have them"
    spec = FaceSpec(
        name=entry.name, version=SIMULATED, sha256="", dimensions=dimensions, input_size=face.input_size,
        template=face.template, metric=face.metric, threshold=face.threshold, meaning=face.meaning,
        channels=face.channels, offset=face.offset, scale=face.scale,
    )  # fmt: skip
    embedder = StandInEmbedder(spec)
    runner = Runner(embedder, name=entry.name)
    return ServedEmbedder(embedder, runner, tuple(entry.aliases), is_simulated=True)
