"""Headers to a credential."""

from __future__ import annotations

import pytest

from phalanx.edges.credentials import MAX_USER_AGENT_CHARS, credential_of
from phalanx.errors import Unauthenticated

KEY = "fe_a-key"


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ({b"authorization": b"Bearer fe_a-key"}, KEY),
        ({b"authorization": b"bearer  fe_a-key "}, KEY),
        ({b"x-api-key": b"fe_a-key"}, KEY),
        ({b"authorization": b"Bearer fe_a-key", b"x-api-key": b"fe_another"}, KEY),
        ({}, ""),
        ({b"x-api-key": b""}, ""),
    ],
)
def test_a_credential_comes_with_its_address(headers: dict[bytes, bytes], text: str) -> None:
    """Also where there is none: that is whom the limit counts."""
    credential = credential_of(headers, "203.0.113.9")
    assert (credential.kind, credential.text) == ("key" if text else "none", text)
    assert credential.address == "203.0.113.9"
    assert "a-key" not in repr(credential)


@pytest.mark.parametrize("value", [b"Basic YTpi", b"fe_a-key", b"", b"Bearer" + b"x" * 9000, b"Bearer " + b"x" * 9000])
def test_another_scheme_and_too_long_a_credential_are_refused(value: bytes) -> None:
    """By words that show none of it."""
    with pytest.raises(Unauthenticated) as refused:
        credential_of({b"authorization": value}, "")
    assert "xxx" not in refused.value.detail
    assert "YTpi" not in refused.value.detail


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b"curl/8.5.0", "curl/8.5.0"),
        ("Änderer/1".encode(), "Änderer/1"),
        (b"a\tb\x1b[31mc\x9f", "a?b?[31mc\N{REPLACEMENT CHARACTER}"),
        (b"x" * 9000, "x" * MAX_USER_AGENT_CHARS),
    ],
)
def test_what_a_client_calls_itself_is_fit_to_be_shown(sent: bytes, kept: str) -> None:
    """In a list of sessions, on a terminal: cut, and without control characters."""
    assert credential_of({b"user-agent": sent}, "").user_agent == kept
