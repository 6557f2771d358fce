"""Stored answers that only this installation can read: some hold tokens and keys, which are shown once and kept nowhere."""

from __future__ import annotations

import hashlib
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from phalanx.ports import IdempotencyStore
from phalanx.settings import Secret

NONCE_BYTES = 12
PURPOSE = b"phalanx answers"


class SealedAnswers:
    """An `IdempotencyStore` whose answers are encrypted (AES-256-GCM) under a key made of the installation's secret.

    The nonce is random and goes before the text; what a key belongs to is authenticated along. An answer that cannot be
    opened, since the secret was changed meanwhile, counts as none: the call is run again.

    Fingerprints are of requests, some of which hold passwords: they are kept under a MAC, or whoever reads the store could
    try passwords at the speed of a plain digest. So a call that is repeated after a change of the secret is refused.
    """

    def __init__(self, store: IdempotencyStore, secret: Secret) -> None:
        self._store = store
        key = hashlib.sha256(secret.encode()).digest()
        self._cipher = AESGCM(hashlib.blake2b(b"answers", key=key, person=PURPOSE, digest_size=32).digest())
        self._mac_key = hashlib.blake2b(b"fingerprints", key=key, person=PURPOSE, digest_size=32).digest()

    async def begin(self, key: str, fingerprint: bytes) -> bytes | None:
        """Claim a key, or return the stored answer; see the port."""
        mac = hashlib.blake2b(fingerprint, key=self._mac_key, digest_size=32).digest()
        sealed = await self._store.begin(key, mac)
        if sealed is None:
            return None
        try:
            return self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], key.encode())
        except (InvalidTag, ValueError):
            return None

    async def finish(self, key: str, answer: bytes | None) -> None:
        """Store the answer, or free the key; see the port."""
        if answer is not None:
            nonce = os.urandom(NONCE_BYTES)
            answer = nonce + self._cipher.encrypt(nonce, answer, key.encode())
        await self._store.finish(key, answer)
