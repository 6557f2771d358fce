"""Collections of points: vectors that are kept, searched and filtered."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from phalanx.contract.keys import Id
from phalanx.contract.vectors import Metric

MAX_DIMENSIONS = 4096
CollectionKind = Literal["vectors", "texts", "faces"]
CollectionName = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}(?!\n)$")]
"""Python's `$` matches before a line feed at the end too, which JSON Schema's does not."""
Word = Annotated[str, Meta(max_length=1024)]
PayloadKey = Annotated[
    str, Meta(min_length=1, max_length=256, description="A key of the payload; a dot leads into an object.")
]


class MatchOf(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A value that the field has: `value` exactly, or one of `any`. A list has each of its items. One of both is given."""

    value: Word | int | bool | UnsetType = UNSET
    any: Annotated[list[Word | int], Meta(min_length=1, max_length=256)] | UnsetType = UNSET


class RangeOf(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Bounds of a number; at least one is given."""

    gt: float | None = None
    gte: float | None = None
    lt: float | None = None
    lte: float | None = None


class Condition(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a field of the payload must be: either a `match` or a `range`."""

    key: PayloadKey
    match: MatchOf | None = None
    range: RangeOf | None = None


Conditions = Annotated[list[Condition], Meta(max_length=64)]


class Filter(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which points count: those that meet all of `must`, none of `must_not` and, if there are any, one of `should`.

    The shape is Qdrant's.
    """

    must: Conditions = []
    must_not: Conditions = []
    should: Conditions = []


class VectorsContract(Struct, frozen=True, kw_only=True, tag_field="kind", tag="vectors"):
    """What the vectors of a collection of the caller's own vectors have in common."""

    dimensions: int
    metric: Metric


class TextsContract(Struct, frozen=True, kw_only=True, tag_field="kind", tag="texts"):
    """What made the vectors of a collection of texts. They are of unit length.

    Texts are cut to `max_tokens`. If the model has prompts, `document_prompt` is put before texts that are kept, and
    `query_prompt` before texts that are searched for.
    """

    model: str
    version: str
    sha256: str
    dimensions: int
    pooling: str
    max_tokens: int
    normalize: bool = True
    metric: Metric = "cosine"
    document_prompt: str | None = None
    query_prompt: str | None = None


class FacesContract(Struct, frozen=True, kw_only=True, tag_field="kind", tag="faces"):
    """What made the vectors of a collection of faces: the network, how faces are cut out for it, and the detector.

    Two faces count as one person's when their euclidean distance is at most `threshold`, or their cosine at least that.
    """

    model: str
    version: str
    sha256: str
    dimensions: int
    template: str
    metric: Metric
    threshold: float
    detector: str
    detector_version: str
    preprocessing: str


Contract = VectorsContract | TextsContract | FacesContract


class ListCollectionsRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask for collections in order of their names, beginning after the name `after`.

    `organisation` is for administrators of the installation, who without it see those of all; others see their own.
    """

    after: Annotated[str, Meta(max_length=512)] = ""
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    organisation: Id | None = None


class CreateCollectionRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask for a collection: of `vectors` of the caller's own, of `texts`, or of `faces`.

    `dimensions` and `metric` (cosine unless given) are for vectors. Texts and faces take both from their `model`, by default
    the worker's. Faces are found by `detector`: one that the operator added, by its name, or else the default.
    """

    name: CollectionName
    kind: CollectionKind
    dimensions: Annotated[int, Meta(ge=1, le=MAX_DIMENSIONS)] | None = None
    metric: Metric | None = None
    model: Annotated[str, Meta(min_length=1, max_length=254)] | None = None
    organisation: Id | None = None
    detector: Annotated[str, Meta(min_length=1, max_length=100)] | None = None


class CollectionRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Name a collection. `organisation` is for administrators of the installation; others can name only their own."""

    name: CollectionName
    organisation: Id | None = None


class CollectionView(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A collection. `place` is what it is called in the store of vectors.

    While its points move to another contract, `next_contract` and `next_place` say where to.
    """

    name: str
    kind: CollectionKind
    organisation: str
    contract: Contract
    place: str
    created_at: float
    next_contract: Contract | None = None
    next_place: str = ""


class ListCollectionsResponse(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Collections; `next` is what to send as `after` for those that follow, absent at the end."""

    collections: list[CollectionView]
    next: str | None = None


class DeleteCollectionResponse(Struct, frozen=True, kw_only=True):
    """The name of the collection that is gone with all its points."""

    deleted: str


class ReembedRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask for a collection to be moved to a model that serves now: `model`, or the one it has, or the default.

    Of several versions that serve at once, `version` chooses one; without it, it is the one with most weight. A collection of
    texts is then moved by the worker. One of faces, which may also be moved to another `detector`, needs its images:
    `images` says that they are `coming`, each by a call of `faces/reembed`, or that they are `complete`, so that faces whose
    images have not arrived are left out.
    """

    name: CollectionName
    model: Annotated[str, Meta(min_length=1, max_length=254)] | None = None
    version: Annotated[str, Meta(min_length=1, max_length=254)] | None = None
    organisation: Id | None = None
    detector: Annotated[str, Meta(min_length=1, max_length=100)] | None = None
    images: Literal["coming", "complete"] | None = None


class ReembedStatusRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask how far a collection has moved."""

    name: CollectionName
    organisation: Id | None = None


class ReembedView(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far a collection has moved to another model.

    `state` is `settled` when it does not move; `moving` while this worker moves it; `halted` when no worker does, until it is
    asked for again; `waiting` when it needs images. `moved` of `points` have arrived. `error` says what it waits for, or what
    ended it.
    """

    name: str
    state: Literal["settled", "moving", "halted", "waiting"]
    contract: Contract
    points: int
    moved: int
    next_contract: Contract | None = None
    error: str = ""
