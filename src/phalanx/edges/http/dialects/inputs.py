"""The union that OpenAI and TEI take as input: a text, texts, one text's token ids, or several texts' token ids."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from phalanx.contract.text import Text, TokenIds
from phalanx.errors import InvalidRequest

_Id = Annotated[int, Meta(ge=0, le=2**31 - 1)]

# msgspec takes one kind of list in a union, so the kinds are told apart here.
Input = str | list[str | _Id | TokenIds]


def texts_of(given: Input, field: str) -> list[Text]:
    """Return the texts of an input. Raises `InvalidRequest`, naming `field`, for an empty list and for mixed kinds."""
    if isinstance(given, str):
        return [given]
    if not given:
        raise InvalidRequest(f"{field} is empty; send at least one text", param=field)
    kinds = {type(part) for part in given}
    if len(kinds) > 1:
        raise InvalidRequest(f"{field} mixes texts and token ids; send one kind", param=field)
    if kinds == {int}:
        return [[part for part in given if isinstance(part, int)]]
    return [part for part in given if not isinstance(part, int)]
