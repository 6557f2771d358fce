"""The name under which a request is found again: the caller's own, or one made here."""

from __future__ import annotations

import random
import re

_SOUND = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}\Z")


def request_id(sent: bytes | None) -> str:
    """Return the id that was sent, unless it could break a log line or a header; then 32 random hex digits."""
    if sent and _SOUND.match(sent):
        return sent.decode()
    # A name and no secret: the kernel's random numbers would cost a system call a request.
    return f"{random.getrandbits(128):032x}"
