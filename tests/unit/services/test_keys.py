"""The text of API keys."""

from __future__ import annotations

import hashlib
import string
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phalanx.services.keys import is_well_formed, key_digest, new_key_text


def test_a_new_key_has_the_wires_form() -> None:
    """Prefix, 43 base62 characters, 6 of checksum."""
    text = new_key_text("fe_")
    assert len(text) == 3 + 43 + 6
    assert set(text[3:]) <= set(string.ascii_letters + string.digits)
    assert is_well_formed(text, "fe_")


def test_keys_differ() -> None:
    """256 random bits."""
    assert len({new_key_text("fe_") for _ in range(1000)}) == 1000


def test_the_checksum_is_crc32_in_base62() -> None:
    """A value computed by hand: digits 0-9, A-Z, a-z, zero-padded, over prefix and body."""
    body = "fe_" + "A" * 43
    number, expected = zlib.crc32(body.encode()), ""
    digits = string.digits + string.ascii_uppercase + string.ascii_lowercase
    while number:
        number, digit = divmod(number, 62)
        expected = digits[digit] + expected
    assert is_well_formed(body + expected.rjust(6, "0"), "fe_")


@given(st.integers(0, 51), st.sampled_from(string.ascii_letters + string.digits))
def test_one_wrong_character_is_noticed(position: int, character: str) -> None:
    """A typing error does not reach the store."""
    text = new_key_text("fe_")
    wrong = text[:position] + character + text[position + 1 :]
    assert is_well_formed(wrong, "fe_") == (wrong == text)


@given(st.text(max_size=80))
def test_any_other_text_is_refused(text: str) -> None:
    """Whatever it is made of."""
    assert not is_well_formed(text, "fe_")


def test_another_prefix_is_refused() -> None:
    """Keys of another installation."""
    assert not is_well_formed(new_key_text("sk_"), "fe_")


@pytest.mark.parametrize("text", ["a", "fe_x", "\ud800"])
def test_the_digest_is_sha256(text: str) -> None:
    """Of the whole text, lone surrogates too."""
    assert key_digest(text) == hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
