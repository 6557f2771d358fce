"""How long calls may take: by their texts and images, and no longer than their callers wait."""

from __future__ import annotations

import pytest

from phalanx.contract.faces import DetectRequest
from phalanx.contract.images import MAX_IMAGES
from phalanx.contract.text import MAX_TEXTS, EmbedRequest
from phalanx.operations.patience import MOST_TIMES, times


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (EmbedRequest(texts=["a"]), 1), (EmbedRequest(texts=["a"] * 256), 1), (EmbedRequest(texts=["a"] * 257), 2),
        (EmbedRequest(texts=["a"] * MAX_TEXTS), 8), (EmbedRequest(texts=["a"] * 10**6), MOST_TIMES),
        (DetectRequest(image="a"), 1), (DetectRequest(images=["a"] * 4), 1), (DetectRequest(images=["a"] * 5), 2),
        (DetectRequest(images=["a"] * MAX_IMAGES), 8), (object(), 1), (None, 1),
    ],
)  # fmt: skip
def test_many_texts_and_images_have_more_time(request_: object, expected: int) -> None:
    """And a request that will be refused for its size no more than the largest."""
    assert times(request_) == expected
