"""What a command was given, as the request of a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
import typer

T = TypeVar("T")


def convert(fields: Mapping[str, Any], request: type[T]) -> T:
    """Return a request made of what a command was given. Raises `typer.BadParameter`, which says what is wrong."""
    try:
        return msgspec.convert(fields, request)
    except msgspec.ValidationError as error:
        raise typer.BadParameter(str(error)) from None
