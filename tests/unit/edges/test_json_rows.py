"""Large JSON with rows of numbers: the same requests and the same errors as of small ones, and a loop that turns meanwhile."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
import numpy as np
import pytest

from phalanx.contract.text import EmbedRequest
from phalanx.contract.vectors import Rows, VectorSimilarityRequest
from phalanx.edges.http.dialects.aurum import AurumSimilarityRequest
from phalanx.edges.json_body import BodyDecoder
from phalanx.edges.json_rows import LARGE_BYTES, rows_decoder
from phalanx.errors import InvalidRequest

PADDING = b" " * LARGE_BYTES


def decoded(body: Any, request: type[msgspec.Struct] = VectorSimilarityRequest, *, padding: bytes = PADDING) -> Any:
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return asyncio.run(BodyDecoder(request).decode(data + padding))


@pytest.mark.parametrize("request_type", [VectorSimilarityRequest, AurumSimilarityRequest])
@pytest.mark.parametrize(
    "body",
    [
        {"query": [1.5, -2.0], "candidates": [[1.0, 0.1], [3, 4e-3]], "top_k": 1},
        {"left": [[1.0]], "right": [[2.0], [3.0], [1e300]], "metric": "euclidean"},
        {"a": [1.0, 2.0], "b": [2.0, 1.0]},
        {"query": [1.0], "candidates": None},
        {},
    ],
)
def test_a_large_body_is_the_request_of_a_small_one(body: dict[str, Any], request_type: type[msgspec.Struct]) -> None:
    """With float32 arrays for rows, infinite where float32 ends."""
    large, small = decoded(body, request_type), decoded(body, request_type, padding=b"")
    assert type(large) is type(small) is request_type
    for name in small.__struct_fields__:
        one, other = getattr(large, name), getattr(small, name)
        if isinstance(one, np.ndarray):
            with np.errstate(over="ignore"):
                assert np.array_equal(one, np.array(other).astype(np.float32))
            assert one.dtype == np.float32
        else:
            assert one == other


def test_no_rows_stay_no_rows() -> None:
    assert decoded({"query": [1.0], "candidates": []}).candidates == []
    assert decoded({"query": [1.0], "candidates": [[]]}).candidates.shape == (1, 0)


@pytest.mark.parametrize(
    "body",
    [
        {"query": [1.0], "candidates": [[1.0], [2.0, "3"]]}, {"query": [1.0], "candidates": [[1.0], 7]},
        {"query": [1.0], "candidates": [[1.0], [[2.0]]]}, {"query": [1.0], "candidates": [[None]]}, {"query": [1.0], "candidates": "x"},
        {"query": "x", "candidates": [[1.0]]}, {"query": [1.0], "candidates": [[1.0]], "colour": 1}, [1.0], b'{"candidates": [[1.0,]]}',
        b'{"candidates": [[1.0]', b'{"candidates": [[1.0 2.0]]}', b'{"candidates": [[NaN]]}', b'{"candidates": [[01]]}', b"\xff", b"",
    ],
)  # fmt: skip
def test_a_large_body_is_refused_as_a_small_one_is(body: Any) -> None:
    """In the same words, as far as msgspec has the same."""
    errors = []
    for padding in (PADDING, b""):
        with pytest.raises(InvalidRequest) as refused:
            decoded(body, padding=padding)
        errors.append(refused.value)
    if not isinstance(body, bytes):
        assert (errors[0].detail, errors[0].param) == (errors[1].detail, errors[1].param)


def test_rows_of_unequal_length_are_named() -> None:
    with pytest.raises(InvalidRequest, match=r"candidates\[1\] has 2 numbers, candidates\[0\] has 1") as refused:
        decoded({"query": [1.0], "candidates": [[1.0], [1.0, 2.0]]})
    assert refused.value.param == "candidates"


LONG = [[0.125] * 500, [1e-3] * 500]


@pytest.mark.parametrize(
    ("body", "skips"),
    [
        (msgspec.json.encode({"query": LONG[0], "candidates": LONG, "top_k": 1}), True),
        (msgspec.json.format(msgspec.json.encode({"left": LONG, "right": LONG, "a": None}), indent=4), True),
        (b'{"metric": "dot", "a": [%s], "b": [%s]}' % (b"1," * 500 + b"1", b"2," * 500 + b"3"), True),
        # A bracket that is part of a string; what is escaped may be one.
        (msgspec.json.encode({"query": LONG[0], "candidates": LONG, "metric": "]"}), False),
        (msgspec.json.encode({"query": LONG[0], "candidates": LONG, "metric": "[1]"}), False),
        (b'{"metric": "d\\u006ft", "query": %s, "candidates": [[1.0]]}' % msgspec.json.encode(LONG[0]), False),
        # Small rows; none; rows where there should be none.
        (msgspec.json.encode({"query": [1.0], "candidates": [[1.0]] * 500}), False),
        (b'{"query": [1], "candidates": []}' + b" " * 5000, False),
        (msgspec.json.encode({"query": LONG, "candidates": LONG}), False),
        (msgspec.json.encode({"query": LONG[0], "candidates": [0, LONG[0]]}), False),
        (msgspec.json.encode({"query": LONG[0], "candidates": LONG, "top_k": [1]}), False),
        (b"]" * 5000, False),
    ],
)
def test_rows_are_found_by_their_brackets_where_that_is_safe(body: bytes, skips: bool) -> None:
    """And are then what the decoder of the whole makes of them."""
    decoder = rows_decoder(VectorSimilarityRequest)
    assert decoder is not None
    found = decoder.skip(body)
    assert (found is not None) == skips
    if skips:
        whole = msgspec.json.decode(body, type=VectorSimilarityRequest)
        for name in whole.__struct_fields__:
            one, other = getattr(found, name), getattr(whole, name)
            assert one == other if not isinstance(one, np.ndarray) else np.array_equal(one, np.array(other, np.float32))


def test_a_field_with_lists_of_its_own_is_not_skipped() -> None:
    class WithWords(msgspec.Struct):
        words: list[int]
        candidates: Rows | None = None

    body = msgspec.json.encode({"words": list(range(2000)), "candidates": LONG})
    decoder = rows_decoder(WithWords)
    assert decoder is not None
    assert decoder.skip(body) is None
    assert decoded(body, WithWords).words == list(range(2000))


def test_requests_without_rows_are_decoded_as_ever() -> None:
    assert rows_decoder(EmbedRequest) is None
    assert decoded({"texts": ["a"]}, EmbedRequest).texts == ["a"]


def test_the_loop_turns_while_rows_are_read() -> None:
    """Ten megabytes: it is held up for a part of what decoding takes, not for all of it."""
    numbers = np.random.default_rng(1).standard_normal((1000, 512)) / 3
    body = msgspec.json.encode({"query": numbers[0].tolist(), "candidates": numbers.tolist()})
    decoder = BodyDecoder(VectorSimilarityRequest)

    async def turns() -> tuple[int, int]:
        done = False
        count = 0

        async def tick() -> None:
            nonlocal count
            while not done:
                await asyncio.sleep(0)
                count += 1

        ticking = asyncio.create_task(tick())
        await asyncio.sleep(0)
        before = count
        began = time.perf_counter()
        request = await decoder.decode(body)
        assert request.candidates.shape == (1000, 512)
        done = True
        await ticking
        return count - before, int((time.perf_counter() - began) * 1e3)

    count, _ = asyncio.run(turns())
    assert count > 3
