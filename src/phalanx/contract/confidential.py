"""Structs that hold what must not be shown."""

from __future__ import annotations

from msgspec import Struct


class Confidential(Struct, frozen=True, kw_only=True):
    """A struct with a password, a token or a key in it: `repr` shows none of its fields, so no log or traceback does."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}([REDACTED])"
