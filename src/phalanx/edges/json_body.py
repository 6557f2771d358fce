"""JSON to requests and responses to JSON, for every edge that carries it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from phalanx.contract.vector import render_array
from phalanx.edges.json_rows import LARGE_BYTES, rows_decoder
from phalanx.errors import InvalidRequest, TooLarge

encode_json: Callable[[Any], bytes] = msgspec.json.Encoder(enc_hook=render_array).encode
"""Encode a contract or dialect struct as UTF-8 JSON."""


def decode_json(decoder: msgspec.json.Decoder[Any], data: bytes) -> Any:
    """Decode a body. Raises `InvalidRequest` that says where and what."""
    if not data:
        raise InvalidRequest("the body is empty; send a JSON object")
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise invalid(error) from None
    except UnicodeDecodeError:
        raise InvalidRequest("the body is not valid UTF-8") from None
    except RecursionError:
        raise InvalidRequest("the body is nested too deeply") from None
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from None


class BodyDecoder:
    """Decodes JSON bodies of one kind: on the event loop, but for large ones with rows of numbers."""

    def __init__(self, request: type[msgspec.Struct]) -> None:
        self._whole: msgspec.json.Decoder[Any] = msgspec.json.Decoder(request)
        self._rows = rows_decoder(request)

    async def decode(self, data: bytes) -> Any:
        """Decode a body. Raises `InvalidRequest` that says where and what."""
        if self._rows is None or len(data) < LARGE_BYTES:
            return decode_json(self._whole, data)
        skipped = await asyncio.to_thread(self._rows.skip, data)
        if skipped is not None:
            return skipped
        outer = decode_json(self._rows.outer, data)
        try:
            return await asyncio.to_thread(self._rows.finish, outer)
        except msgspec.ValidationError as error:
            raise invalid(error) from None

    def line(self, data: bytes) -> Any:
        """Decode one message of a stream."""
        return decode_json(self._whole, data)


def invalid(error: msgspec.ValidationError) -> InvalidRequest:
    """Word a validation error, naming the field at fault where msgspec tells it."""
    text = str(error)
    _, _, place = text.partition(" - at `")
    field = place.rstrip("`").removeprefix("$").lstrip(".") or None
    if "unknown field `" in text:
        field = text.split("unknown field `", 1)[1].split("`", 1)[0]
    return InvalidRequest(text, param=field)


def too_large(size: int, limit: int) -> TooLarge:
    """Word a refusal by size."""
    return TooLarge(f"the body has {size} bytes or more, {limit} are allowed")
