"""The name under which a request is found again: the caller's own, or one made here."""

from __future__ import annotations

import re
import secrets

_SOUND = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}\Z")


def request_id(sent: bytes | None) -> str:
    """Return the id that was sent, unless it could break a log line or a header; then 32 random hex digits."""
    return sent.decode() if sent and _SOUND.match(sent) else secrets.token_hex(16)
