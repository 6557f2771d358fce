"""The keys that sign access tokens: today's, and former ones whose tokens still count."""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from phalanx.settings import Secret, Settings, SettingsError
from phalanx.settings.reading import MIN_SECRET_CHARS

FILE_NAME = "jwt-secret"
SECRET_BYTES = 48
KID_CHARS = 8
PEM = "-----BEGIN "


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key as tokens use it. `kid` names it in their header; `private` is None for one that only verifies."""

    kid: str
    algorithm: Literal["HS256", "EdDSA"]
    private: Any = field(repr=False)
    public: Any = field(repr=False)


class SigningKeys(NamedTuple):
    """The key that signs, and by kid all whose tokens count, itself included."""

    current: SigningKey
    accepted: dict[str, SigningKey]


def signing_keys(settings: Settings) -> SigningKeys:
    """Return the keys that JWT_SECRET and JWT_PREVIOUS_SECRETS give. Raises `SettingsError` for what is no key.

    Whoever rotates puts the former secret among the previous ones for JWT_ACCESS_TTL_SECS: nobody is logged out.
    """
    current = _read("JWT_SECRET", load_secret(settings))
    if current.private is None:
        raise SettingsError(["JWT_SECRET: a public key cannot sign; give the private one."])
    previous = [_read("JWT_PREVIOUS_SECRETS", secret) for secret in settings.jwt_previous_secrets]
    return SigningKeys(current, {key.kid: key for key in (*previous, current)})


def load_secret(settings: Settings) -> Secret:
    """Return JWT_SECRET, or the one in DATA_DIR, which is made at first need, once for all processes there.

    Raises `SettingsError` when there is none and none can be made.
    """
    if settings.jwt_secret is not None:
        return settings.jwt_secret
    path = settings.data_dir / FILE_NAME
    try:
        if not path.exists():
            _make_secret(path)
        secret = Secret(path.read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
        problem = (
            f"DATA_DIR: {FILE_NAME} in {str(settings.data_dir)!r} cannot be used ({why}); name a folder that can be "
            "written to, or set JWT_SECRET."
        )
        raise SettingsError([problem]) from None
    if len(secret) < MIN_SECRET_CHARS:
        raise SettingsError([f"JWT_SECRET is not set, and {FILE_NAME} in DATA_DIR is damaged; delete it."])
    return secret


def _make_secret(path: Path) -> None:
    """Write a random secret for its owner's eyes, unless another process was quicker. A link is made whole or not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(secrets.token_urlsafe(SECRET_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        Path(draft).unlink()


def _read(name: str, secret: Secret) -> SigningKey:
    if secret.startswith(PEM):
        return _read_pem(name, secret)
    if len(secret) < MIN_SECRET_CHARS:
        raise SettingsError([f"{name}: a secret has {len(secret)} characters; {MIN_SECRET_CHARS} or more are needed."])
    key = secret.encode()
    return SigningKey(_kid(key), "HS256", key, key)


def _read_pem(name: str, secret: Secret) -> SigningKey:
    # Files of variables hold one line for each, so that people write the line breaks of a key as \n.
    pem = secret.replace("\\n", "\n").encode()
    private: object = None
    public: object = None
    with suppress(ValueError, TypeError, UnsupportedAlgorithm):
        if b"PUBLIC KEY" in pem:
            public = load_pem_public_key(pem)
        else:
            private = load_pem_private_key(pem, password=None)
            public = private.public_key() if isinstance(private, Ed25519PrivateKey) else None
    if not isinstance(public, Ed25519PublicKey):
        raise SettingsError([f"{name}: a PEM is not an Ed25519 key without a password."])
    return SigningKey(_kid(public.public_bytes_raw()), "EdDSA", private, public)


def _kid(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()[:KID_CHARS]
