"""What a command was given, as the request of a row."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar, get_args

import msgspec
import typer

from phalanx.contract.collections import CollectionName
from phalanx.contract.keys import ALL_SCOPES, Email
from phalanx.contract.usage import Day

T = TypeVar("T")

_FORMS = (
    (Email, "no email address, such as ann@example.org"),
    (Day, "no day, such as 2026-11-30"),
    (
        CollectionName,
        "no name for a collection: lower-case letters and digits, also - and _ behind the first, 63 in all",
    ),
)
"""What a regular expression of the contract asks for, in words."""

_LENGTH = re.compile(r"Expected `str` of length (>=|<=) (\d+)")


def convert(fields: Mapping[str, Any], request: type[T]) -> T:
    """Return a request made of what a command was given. Raises `typer.BadParameter`, which says what is wrong."""
    try:
        return msgspec.convert(fields, request)
    except msgspec.ValidationError as error:
        raise typer.BadParameter(worded(error, fields)) from None


def worded(error: msgspec.ValidationError, fields: Mapping[str, Any]) -> str:
    """Return what is wrong with the fields of a request, as a user of the command line is told it."""
    text = str(error)
    what, _, place = text.partition(" - at `$.")
    for kind, words in _FORMS:
        if repr(get_args(kind)[1].pattern) in what:
            return f"{fields.get(place.rstrip('`'))!r} is {words}"
    if (length := _LENGTH.fullmatch(what)) is not None:
        bound, count = length.groups()
        name = place.rstrip("`")
        if (bound, count) == (">=", "1"):
            return f"{name} is empty"
        bounds = "must have {} at least" if bound == ">=" else "may have {} at most"
        return f"{name} has {len(fields[name])} characters; it {bounds.format(count)}"
    if place.startswith("scopes["):
        return f"{what}; scopes are {', '.join(ALL_SCOPES)}"
    return text
