"""Large JSON bodies with rows of numbers, decoded off the event loop.

The decoder keeps the interpreter to itself while it works, in a thread too: 30 ms for 10 MB. So rows are first found without
being read, and then read one by one in a thread, which lets go between them. As each becomes float32 at once rather than Python's
floats, that takes less in all, and a third of the memory.

Rows are found by their brackets, in a tenth of the time in which a decoder passes over numbers: what lies between brackets with no
brackets in between is put aside, and what is left is decoded as JSON. A bracket may also stand in a string, and then, or where
anything at all is wrong, the whole is decoded as JSON, in a third of the time of reading it, and says what.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from phalanx.contract.vector import Vector
from phalanx.contract.vectors import Numbers as Vectors
from phalanx.contract.vectors import Rows
from phalanx.errors import InvalidRequest

LARGE_BYTES = 1 << 18
"""Bytes from which a body is decoded so: below, it takes less than a millisecond."""

LEAST_ROW_BYTES = 256
"""Bytes that rows must have on average for their brackets to be sought: many small ones are found sooner by the decoder."""

Numbers = msgspec.json.Decoder(list[float])


class RowsDecoder:
    """Decodes requests of one kind that have rows of numbers; what it returns has float32 arrays `[n, d]` in their place."""

    def __init__(self, request: type[msgspec.Struct]) -> None:
        fields = msgspec.structs.fields(request)
        self._names = [field.name for field in fields if _has_rows(field.type)]
        self._single = [field.name for field in fields if field.type == Vectors | None]
        self._request = request
        others = [field.type for field in fields if field.name not in (*self._names, *self._single)]
        self._can_skip = not any(_may_hold_a_list(kind) for kind in others)
        raw = [
            (field.name, list[msgspec.Raw] | None if field.name in self._names else field.type, field.default)
            for field in fields
        ]
        strict = request.__struct_config__.forbid_unknown_fields
        self.outer: msgspec.json.Decoder[Any] = msgspec.json.Decoder(
            msgspec.defstruct(request.__name__, raw, kw_only=True, forbid_unknown_fields=strict)
        )
        places = [(name, list[list[int]] | None if name in self._names else list[int] | None if name in self._single
                   else kind, default) for name, kind, default in raw]  # fmt: skip
        self._rest: msgspec.json.Decoder[Any] = msgspec.json.Decoder(
            msgspec.defstruct(request.__name__, places, kw_only=True, forbid_unknown_fields=strict)
        )

    def skip(self, data: bytes) -> Any:
        """Return the request of a body by the brackets in it; None where it has to be decoded as a whole. In a thread.

        Raises `InvalidRequest` for rows of unequal length.
        """
        found = _set_aside(data) if self._can_skip else None
        if found is None:
            return None
        text, rows = found
        try:
            rest = self._rest.decode(text)
            read: dict[str, Any] = {}
            for name in self._names:
                if (places := getattr(rest, name)) is not None:
                    read[name] = _read([rows[place] for (place,) in places], name)
            for name in self._single:
                if (place := getattr(rest, name)) is not None:
                    read[name] = Numbers.decode(rows[place[0]])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        return self._request(**{**msgspec.structs.asdict(rest), **read})

    def finish(self, outer: Any) -> Any:
        """Return the request of what `outer` gave. In a thread.

        Raises msgspec's `ValidationError`, as it would of the whole, and `InvalidRequest` for rows of unequal length.
        """
        sent = {name: rows for name in self._names if (rows := getattr(outer, name)) is not None}
        arrays = {name: _read(rows, name) for name, rows in sent.items()}
        return self._request(**{**msgspec.structs.asdict(outer), **arrays})


def rows_decoder(request: type[msgspec.Struct]) -> RowsDecoder | None:
    """Return a decoder for a request that has rows of numbers, None for any other."""
    return RowsDecoder(request) if any(_has_rows(field.type) for field in msgspec.structs.fields(request)) else None


def _has_rows(kind: Any) -> bool:
    return bool(kind == Rows | None)


def _may_hold_a_list(kind: Any) -> bool:
    """Whether a value of a field can have brackets, other than in a string."""
    plain = (
        msgspec.inspect.BoolType, msgspec.inspect.IntType, msgspec.inspect.FloatType, msgspec.inspect.StrType,
        msgspec.inspect.LiteralType, msgspec.inspect.NoneType,
    )  # fmt: skip
    what = msgspec.inspect.type_info(kind)
    kinds = what.types if isinstance(what, msgspec.inspect.UnionType) else (what,)
    return not all(isinstance(one, plain) for one in kinds)


def _set_aside(data: bytes) -> tuple[bytes, list[memoryview]] | None:
    """Return JSON with its innermost lists put aside, the number of each in its place, and those lists, as they came.

    None where a bracket may be part of a string, or the lists are short.
    """
    view, parts, rows = memoryview(data), list[bytes](), list[memoryview]()
    at = quotes = 0
    for _ in range(len(data) // LEAST_ROW_BYTES):
        end = data.find(b"]", at)
        if end < 0:
            break
        start = data.rfind(b"[", at, end)
        # Without one, this bracket is the end of a list of lists.
        part = data[at : end + 1 if start < 0 else start]
        quotes += part.count(b'"')
        if quotes % 2 or b"\\" in part:
            return None
        parts.append(part)
        if start >= 0:
            parts.append(b"[%d]" % len(rows))
            rows.append(view[start : end + 1])
        at = end + 1
    else:
        return None
    return b"".join([*parts, data[at:]]), rows


def _read(rows: Sequence[msgspec.Raw | memoryview], name: str) -> Any:
    """Return rows as one array; as they came where there are none, or one is empty: the service has words for that."""
    if not rows:
        return []
    packed, width = [], -1
    for index, row in enumerate(rows):
        try:
            numbers = Numbers.decode(row)
        except msgspec.ValidationError as error:
            what, _, place = str(error).partition(" - at `$")
            raise msgspec.ValidationError(f"{what} - at `$.{name}[{index}]{place.rstrip('`')}`") from None
        if width < 0:
            width, pack = len(numbers), struct.Struct(f"{len(numbers)}f").pack
        if len(numbers) != width:
            said = f"{name}[{index}] has {len(numbers)} numbers, {name}[0] has {width}; they must have as many"
            raise InvalidRequest(said, param=name)
        # In native form a number beyond float32 becomes infinite.
        packed.append(pack(*numbers))
    found: Vector = np.frombuffer(b"".join(packed), np.float32).reshape(len(rows), width)
    return found
