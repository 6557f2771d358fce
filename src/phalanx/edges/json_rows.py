"""Large JSON bodies with rows of numbers, decoded off the event loop.

The decoder keeps the interpreter to itself while it works, in a thread too: 30 ms for 10 MB. So rows are first found without
being read, a third of that, and then read one by one in a thread, which lets go between them. As each becomes float32 at once
rather than Python's floats, that takes less in all, and a third of the memory.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec
import numpy as np

from phalanx.contract.vector import Vector
from phalanx.contract.vectors import Rows
from phalanx.errors import InvalidRequest

LARGE_BYTES = 1 << 18
"""Bytes from which a body is decoded so: below, it takes less than a millisecond."""

Numbers = msgspec.json.Decoder(list[float])


class RowsDecoder:
    """Decodes requests of one kind that have rows of numbers; what it returns has float32 arrays `[n, d]` in their place."""

    def __init__(self, request: type[msgspec.Struct]) -> None:
        fields = msgspec.structs.fields(request)
        self._names = [field.name for field in fields if _has_rows(field.type)]
        self._request = request
        raw = [
            (field.name, list[msgspec.Raw] | None if field.name in self._names else field.type, field.default)
            for field in fields
        ]
        strict = request.__struct_config__.forbid_unknown_fields
        self.outer: msgspec.json.Decoder[Any] = msgspec.json.Decoder(
            msgspec.defstruct(request.__name__, raw, kw_only=True, forbid_unknown_fields=strict)
        )

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


def _read(rows: list[msgspec.Raw], name: str) -> Any:
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
