"""How a Qdrant server's URL is read."""

from __future__ import annotations

import pytest

from phalanx.settings.parsing import qdrant_url
from phalanx.stores.qdrant.server import Address, address_of


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://qdrant", Address("qdrant:6334", False, "")),
        ("http://qdrant:6333/", Address("qdrant:6334", False, "")),
        ("http://qdrant:6334", Address("qdrant:6334", False, "")),
        ("https://a%20key@qdrant.example:443", Address("qdrant.example:443", True, "a key")),
        ("https://:secret@qdrant.example", Address("qdrant.example:6334", True, "secret")),
        ("http://[::1]:7000", Address("[::1]:7000", False, "")),
    ],
)
def test_a_url_is_read(url: str, address: Address) -> None:
    assert address_of(qdrant_url(url)) == address


def test_the_key_that_is_set_apart_wins() -> None:
    assert address_of("https://one@qdrant", "other").api_key == "other"


@pytest.mark.parametrize(
    "url", ["qdrant:6334", "ftp://qdrant", "http://", "http://qdrant/path", "http://q:99999", "http://q?x"]
)
def test_what_is_no_url_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        qdrant_url(url)
