"""What fields of a job's request may be called besides their own names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from phalanx.errors import InvalidRequest

T = TypeVar("T")


def renamed(fields: Mapping[str, T], names: Mapping[str, str]) -> dict[str, T]:
    """Return a request's fields by their own names; `names` has those by the others.

    Raises `InvalidRequest` where one field comes by two names.
    """
    found: dict[str, T] = {}
    called: dict[str, str] = {}
    for name, value in fields.items():
        own = names.get(name, name)
        if own in found:
            raise InvalidRequest(f"{called[own]!r} and {name!r} are one field; send one of them", param=own)
        found[own], called[own] = value, name
    return found
