"""What a gallery makes of a face: whether it may come in, and who it is."""

from __future__ import annotations

from collections.abc import Sequence

from phalanx.contract.collections import FacesContract
from phalanx.contract.faces import FoundFace
from phalanx.contract.gallery import Candidate, IdentifiedFace, SearchMeaning
from phalanx.engines.face.facts import Face
from phalanx.engines.face.identification import false_positive_rate, published_rate
from phalanx.errors import LowQuality, SeveralFaces
from phalanx.ports import Hit
from phalanx.services.collections.gallery_shapes import PERSON_KEY
from phalanx.services.faces.finding import choose

MEASURES = ("sharpness", "exposure", "pose", "size", "completeness", "detection")


def describe_search(contract: FacesContract, threshold: float, compared: int, meaning: str) -> SearchMeaning:
    """Return what a threshold means among so many faces. `meaning` is what is said of the model's own."""
    rate = published_rate(contract.model, threshold)
    if rate is None:
        said = (
            f"how often a comparison with another person matches at {threshold:g} is not published for {contract.model}: "
            f"measure that rate on photos of your own; a search among {compared} then finds somebody by mistake in "
            f"1 - (1 - rate)^{compared} of the cases"
        )
        return SearchMeaning(compared=compared, false_match_rate=None, false_positive_rate=None, meaning=said)
    mistaken = false_positive_rate(rate, compared)
    said = (
        f"{meaning}; that bounds the false match rate of one comparison at {rate:.2%}, and the false positive rate of a "
        f"search among {compared} at 1 - (1 - {rate:.4f})^{compared} = {mistaken:.1%}"
    )
    return SearchMeaning(
        compared=compared, false_match_rate=round(rate, 6), false_positive_rate=round(mistaken, 6), meaning=said
    )


def identified(found: FoundFace, hits: Sequence[Hit], contract: FacesContract, threshold: float) -> IdentifiedFace:
    """Return who a face is, by the nearest face of each of the nearest persons, nearest first."""

    def matches(score: float) -> bool:
        return score <= threshold if contract.metric == "euclidean" else score >= threshold

    candidates = [
        Candidate(
            person_id=hit.payload[PERSON_KEY], score=hit.score, match=matches(hit.score), face_id=hit.id,
            metadata=hit.payload["metadata"],
        )
        for hit in hits
    ]  # fmt: skip
    person = candidates[0].person_id if candidates and candidates[0].match else None
    return IdentifiedFace(
        person_id=person, candidates=candidates, bbox=found.bbox, landmarks=found.landmarks, quality=found.quality,
        confidence=found.confidence,
    )  # fmt: skip


def choose_faces(faces: Sequence[Face], which: str | int) -> Sequence[Face]:
    """Return the faces that are meant. Raises `NoFace`, `SeveralFaces`, `InvalidRequest`."""
    if which != "only":
        return choose(faces, which)
    if len(faces) > 1:
        raise SeveralFaces(
            f"{len(faces)} faces were found in the image where one is wanted; face says which, largest or a number",
            param="face",
        )
    return choose(faces, "all")


def require_quality(face: FoundFace, least: float) -> None:
    """Raise `LowQuality` with what is wanting, unless a face is good enough.

    Its quality must be `least`, and no single measure less than half of that: the mean forgives a face of twenty pixels
    much, and its vector lies halfway to the threshold from that of the same face in full size.
    """
    wanting = [name for name in MEASURES if getattr(face.measures, name) < least / 2]
    if face.quality >= least and not wanting:
        return
    reasons = ", ".join(face.measures.reasons) or "no single reason, all measures are middling"
    poor = "".join(
        f"; {name} {getattr(face.measures, name):.2f}, at least {least / 2:.2f} is wanted" for name in wanting
    )
    raise LowQuality(
        f"the face has quality {face.quality:.2f}, at least {least:.2f} is wanted{poor}: {reasons}", param="image"
    )
