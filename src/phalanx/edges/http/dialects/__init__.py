"""Dialects: the shapes of other systems around the same rows, so that their clients work unchanged.

A dialect is pure functions: its wire struct to the row's request, the row's response to its answer, an error to its
envelope. Dialect structs ignore the fields that the original ignores, and take null for any that may be left out, as SDKs send it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from phalanx.errors import PhalanxError
from phalanx.services.ticket import Call


class DialectRoute(NamedTuple):
    """One route of a dialect, around the row called `operation`.

    `decode` makes the row's request of a `wire` struct; `encode` makes the answer of the row's response, with the call
    for what the original shows of timing and with the decoded wire struct. `examples` are bodies that work.
    """

    method: str
    path: str
    operation: str
    wire: type[msgspec.Struct]
    answer: Any
    decode: Callable[[Any], Any]
    encode: Callable[[Any, Any, Call], Any]
    summary: str
    examples: tuple[dict[str, Any], ...] = ()
    strict_media_type: bool = True


class Dialect(NamedTuple):
    """A system's wire: its routes, its error envelope, and the canonical rows whose errors it words."""

    name: str
    routes: tuple[DialectRoute, ...]
    envelope: Callable[[PhalanxError, str], Any]
    error: type[msgspec.Struct]
    adopts: frozenset[str] = frozenset()
