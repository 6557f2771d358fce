"""Lists that are there and empty, where they might have been left out: protocol buffers cannot tell the two apart.

A worker that passes an answer on is told of them beside it, so that its JSON is that of the worker which made it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from phalanx.edges.grpc.shapes import Map, Message, OneOf, Repeated, Shape, Special, fields_of

Plan = tuple[tuple[str, ...], tuple[str, ...]]
"""Of a struct: its lists that may be left out, and its fields in which there are such."""


def empty_lists(answer: Any) -> list[str]:
    """Return the paths, `results.3.faces`, of lists in an answer that might have been left out, are there, and are empty."""
    return list(_paths(answer, ""))


def with_empty_lists(answer: Any, paths: list[str]) -> Any:
    """Return a new answer with empty lists at these paths. Raises `ValueError` for a path that it does not have."""
    try:
        for path in paths:
            *steps, name = path.split(".")
            inner = answer
            for step in steps:
                inner = inner[int(step)] if step.isdecimal() else getattr(inner, step)
            if name not in _plan(type(inner))[0]:
                raise ValueError(path)
            msgspec.structs.force_setattr(inner, name, [])
    except (AttributeError, IndexError, TypeError) as error:
        raise ValueError(path) from error
    return answer


def _paths(struct: Any, before: str) -> Iterator[str]:
    lists, inner = _plan(type(struct))
    for name in lists:
        value = getattr(struct, name)
        if value is not None and len(value) == 0:
            yield before + name
    for name in inner:
        value = getattr(struct, name)
        if isinstance(value, msgspec.Struct):
            yield from _paths(value, f"{before}{name}.")
        elif isinstance(value, list | tuple):
            for index, one in enumerate(value):
                if isinstance(one, msgspec.Struct):
                    yield from _paths(one, f"{before}{name}.{index}.")


_plans: dict[type, Plan] = {}


def _plan(struct: type) -> Plan:
    known = _plans.get(struct)
    if known is None:
        known = _plans[struct] = _planned(struct)
    return known


def _planned(struct: type[msgspec.Struct]) -> Plan:
    infos = {field.name: field for field in msgspec.structs.fields(struct)}
    lists, inner = [], []
    for field in fields_of(struct):
        if infos[field.attribute].default is None and _is_list(field.shape):
            lists.append(field.attribute)
        if any(any(_plan(one)) for one in _structs(field.shape) if one is not struct):
            inner.append(field.attribute)
    return tuple(lists), tuple(inner)


def _is_list(shape: Shape) -> bool:
    return isinstance(shape, Repeated | Map) or shape == Special("Scores")


def _structs(shape: Shape) -> Iterator[type[msgspec.Struct]]:
    if isinstance(shape, Message):
        yield shape.struct
    elif isinstance(shape, Repeated):
        yield from _structs(shape.item)
    elif isinstance(shape, OneOf):
        for option in shape.options:
            yield from _structs(option)
