"""Galleries: persons whose faces are enrolled in a collection, and who is whom among them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from phalanx.contract.collections import CollectionName, Filter
from phalanx.contract.faces import BoundingBox, Detector, Landmarks, QualityMeasures, Score
from phalanx.contract.images import ImageInput, ImageInputs
from phalanx.contract.keys import Id
from phalanx.contract.text import ItemError

MAX_PERSON_CHARS = 200
MAX_METADATA_BYTES = 16 * 1024
MAX_CANDIDATES = 100
MAX_PERSONS = 10_000
DEFAULT_MIN_QUALITY = 0.5
"""Where blur has moved a face's vector by 0.35 to 0.5 from itself, of the 0.6 at which dlib's takes it for another's."""

PersonId = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_PERSON_CHARS,
        pattern=r"^[^/\x00-\x1f\x7f]+$",
        description="The caller's own name for a person: not blank, without slash and control characters.",
    ),
]
Quality = Annotated[float, Meta(ge=0, le=1)]
Which = Literal["largest", "only"] | Annotated[int, Meta(ge=0)]
Metadata = Annotated[dict[str, Any], Meta(description="What else is to be known of the face: at most 16 KiB of JSON.")]


class EnrolRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `image`, or up to 32 `images`, each with a face of the person.

    `face` is `largest`; `only`, which refuses an image with several faces; or a number, counted from left to right from 0. A
    face is refused, with the reasons, when its quality is below `min_quality` or one of its measures is below half of that; 0
    refuses none. Enrolling the same face of the same image twice keeps one face, with the later `metadata`.
    """

    name: CollectionName
    person_id: PersonId
    image: ImageInput | None = None
    images: ImageInputs | None = None
    face: Which = "largest"
    metadata: Metadata = {}
    min_quality: Quality = DEFAULT_MIN_QUALITY
    min_confidence: Score = 0.5
    detector: Detector = "auto"
    organisation: Id | None = None


class EnrolledFace(Struct, frozen=True, kw_only=True):
    """A face in a gallery: its `id`, which is also its point's; which image it is from (SHA-256 of the file) and where in it; since when."""

    id: str
    person_id: str
    image_sha256: str
    bbox: BoundingBox
    landmarks: Landmarks
    quality: float
    confidence: float
    created_at: float
    metadata: dict[str, Any]


class EnrolResult(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The face that was enrolled from one image, or the error for this image.

    `created` is false where the face was there already. `measures` are those of its quality.
    """

    face: EnrolledFace | None = None
    created: bool | None = None
    measures: QualityMeasures | None = None
    error: ItemError | None = None


class EnrolResponse(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """For one `image`, its `face`; for `images`, the `results` in their order. When the answer comes, the faces are on disk."""

    person_id: str
    model: str
    face: EnrolledFace | None = None
    created: bool | None = None
    measures: QualityMeasures | None = None
    results: list[EnrolResult] | None = None


class ReembedFacesRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bring an `image` from which faces of a gallery were enrolled, the same file, while the gallery moves to another network."""

    name: CollectionName
    image: ImageInput | None = None
    organisation: Id | None = None


class ReembedFacesResponse(Struct, frozen=True, kw_only=True):
    """`carried` of the `faces` that were enrolled from this image have arrived; so have `moved` of all `points` of the gallery."""

    faces: int
    carried: int
    points: int
    moved: int


class IdentifyRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `image`, or up to 32 `images`, whose faces are to be looked for among the enrolled ones.

    `face` is as in enrolling, or `all`. `limit` is how many persons are named for each face. `threshold` replaces the
    collection's own: the largest distance, or the smallest cosine, that counts as one person. `filter` says among which faces
    to search, by `person_id` or `metadata`.
    """

    name: CollectionName
    image: ImageInput | None = None
    images: ImageInputs | None = None
    face: Literal["largest", "only", "all"] | Annotated[int, Meta(ge=0)] = "largest"
    limit: Annotated[int, Meta(ge=1, le=MAX_CANDIDATES)] = 5
    threshold: Annotated[float, Meta(ge=-1, le=100)] | None = None
    filter: Filter | None = None
    min_confidence: Score = 0.5
    detector: Detector = "auto"
    organisation: Id | None = None


class Candidate(Struct, frozen=True, kw_only=True):
    """A person, with the enrolled face of theirs that is nearest, and its `score`: the distance or the cosine.

    `match` says whether the score is on the side of the threshold that counts as one person.
    """

    person_id: str
    score: float
    match: bool
    face_id: str
    metadata: dict[str, Any]


class IdentifiedFace(Struct, frozen=True, kw_only=True):
    """A face; who it is (`person_id`, null where nobody is near enough); and the nearest persons, nearest first."""

    person_id: str | None
    candidates: list[Candidate]
    bbox: BoundingBox
    landmarks: Landmarks
    quality: float
    confidence: float


class IdentifyResult(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The faces of one image from left to right, or the error for this image."""

    faces: list[IdentifiedFace] | None = None
    error: ItemError | None = None


class SearchMeaning(Struct, frozen=True, kw_only=True):
    """What the threshold means when a face was compared with `compared` others.

    `false_match_rate` is an upper bound for how often one comparison with another person matches, as published for the model at
    this threshold. `false_positive_rate` is how often a search for somebody who is not enrolled then finds somebody:
    1 − (1 − false_match_rate)^compared. Both are null where nothing was published.
    """

    compared: int
    false_match_rate: float | None
    false_positive_rate: float | None
    meaning: str


class IdentifyResponse(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """For one `image`, its `faces`; for `images`, the `results` in their order; and the model, metric and threshold used.

    `moved` is present while the gallery moves to another network and only the part of it that has arrived, 0 to 1, could be
    searched. `landmarks_estimated` is as in `DetectResponse`.
    """

    model: str
    metric: Literal["euclidean", "cosine", "dot"]
    threshold: float
    search: SearchMeaning
    landmarks_estimated: list[str] | None = None
    faces: list[IdentifiedFace] | None = None
    results: list[IdentifyResult] | None = None
    moved: float | None = None


class ListPersonsRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask for the persons of a gallery, those with most faces first."""

    name: CollectionName
    limit: Annotated[int, Meta(ge=1, le=MAX_PERSONS)] = 1000
    organisation: Id | None = None


class PersonCount(Struct, frozen=True, kw_only=True):
    """A person and how many faces of them are enrolled."""

    id: str
    faces: int


class ListPersonsResponse(Struct, frozen=True, kw_only=True):
    """Persons; `faces` counts all faces of the gallery. `complete` is false where there are more persons than `limit`."""

    persons: list[PersonCount]
    faces: int
    complete: bool


class PersonRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Name a person of a gallery, to read their faces, beginning after the face `after`."""

    name: CollectionName
    id: PersonId
    after: Annotated[str, Meta(max_length=64, description="`next` of the page before.")] | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    organisation: Id | None = None


class PersonResponse(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A person's faces, in the store's own order; `next` is what to send as `after` for those that follow, absent at the end."""

    id: str
    count: int
    faces: list[EnrolledFace]
    next: str | None = None


class ForgetPersonRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Name a person of a gallery, all of whose faces are to be deleted."""

    name: CollectionName
    id: PersonId
    organisation: Id | None = None


class ForgetPersonResponse(Struct, frozen=True, kw_only=True):
    """The person that is gone, and how many faces of theirs there were."""

    id: str
    deleted: int
