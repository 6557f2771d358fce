"""The settings of webhooks: by which secrets they are signed."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re

from phalanx.settings.parsing import Network, Secret

PREFIX = "whsec_"
_HOST = re.compile(r"[^\s:/@?#]+(:[0-9]{1,5})?")
MIN_BYTES, MAX_BYTES = 24, 64
"""Of a secret, as Standard Webhooks recommends."""


def webhook_secrets(raw: str) -> tuple[Secret, ...]:
    """Secrets by comma: `whsec_` and base64 of 24 to 64 bytes each, or as many characters, whose bytes are the secret."""
    found = [word.strip() for word in raw.split(",") if word.strip()]
    for number, word in enumerate(found, 1):
        size = len(webhook_key(word))
        if not MIN_BYTES <= size <= MAX_BYTES:
            raise ValueError(f"secret {number} has {size} bytes; it needs {MIN_BYTES} to {MAX_BYTES}")
    return tuple(map(Secret, found))


def webhook_hosts(raw: str) -> tuple[str, ...]:
    """Hosts by comma, each `name`, `.name`, `name:port`, or an address."""
    found = tuple(word.strip() for word in raw.split(",") if word.strip())
    for word in found:
        if not _HOST.fullmatch(word) and word.count(":") < 2:
            raise ValueError(f"{word!r} is none of host, .host and host:port")
    return found


def inner_networks(raw: str) -> tuple[Network, ...]:
    """Networks or addresses, by comma."""
    return tuple(ipaddress.ip_network(word.strip(), strict=False) for word in raw.split(",") if word.strip())


def webhook_key(secret: str) -> bytes:
    """Return the bytes that sign. Raises `ValueError` for what is no base64."""
    if not secret.startswith(PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        raise ValueError(f"behind {PREFIX} there is no base64") from None
