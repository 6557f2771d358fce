"""The name under which a request is found again: the caller's own, or one made here."""

from __future__ import annotations

import random
import re

_SECRET = rb"[A-Za-z0-9]{1,16}_[A-Za-z0-9]{40,}\Z|eyJ|AA[A-Za-z0-9_-]{40,62}\Z"
"""What API keys, access tokens and refresh tokens look like, mistyped ones too: ids are logged and shown."""
_SOUND = re.compile(rb"(?!%b)[A-Za-z0-9._:/+=@-]{1,128}\Z" % _SECRET)


def request_id(sent: bytes | None) -> str:
    """Return the id that was sent, unless it could break a log line or a header or is a credential; else 32 hex digits."""
    if sent and _SOUND.match(sent):
        return sent.decode()
    # A name and no secret: the kernel's random numbers would cost a system call a request.
    return f"{random.getrandbits(128):032x}"
