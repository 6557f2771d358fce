"""Collections of points: vectors that are kept, searched and filtered."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

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
    """What a payload's field must be: a `match` or a `range`, one of them."""

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
