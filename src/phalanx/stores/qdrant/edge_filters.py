"""Filters in the words of Qdrant Edge."""

from __future__ import annotations

from msgspec import UNSET
from qdrant_edge import FieldCondition, MatchAny, MatchValue, RangeFloat
from qdrant_edge import Filter as EdgeFilter

from phalanx.contract.collections import Condition, Filter
from phalanx.stores.points import bounds
from phalanx.stores.qdrant.stored import path_of, stored_value


def edge_filter(only: Filter | None) -> EdgeFilter | None:
    """Return a filter that was checked as Qdrant Edge takes it; None lets everything through."""
    if only is None or not (only.must or only.must_not or only.should):
        return None
    return EdgeFilter(
        must=[_condition(condition) for condition in only.must] or None,
        must_not=[_condition(condition) for condition in only.must_not] or None,
        should=[_condition(condition) for condition in only.should] or None,
    )


def _condition(condition: Condition) -> FieldCondition | EdgeFilter:
    path, match = path_of(condition.key), condition.match
    if condition.range is not None:
        return FieldCondition(path, range=RangeFloat(**bounds(condition.range)))
    assert match is not None
    if match.value is not UNSET:
        return FieldCondition(path, match=MatchValue(stored_value(match.value)))
    wanted = [stored_value(word) for word in match.any or []]
    words = [word for word in wanted if isinstance(word, str)]
    numbers = [word for word in wanted if isinstance(word, int)]
    # One list holds one kind.
    kinds = ([MatchAny(words)] if words else []) + ([MatchAny(numbers)] if numbers else [])
    return EdgeFilter(should=[FieldCondition(path, match=kind) for kind in kinds])
