"""The settings of services that are elsewhere: where their workers are."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

from phalanx.contract.services import GROUPS, ServiceName

MAX_ADDRESSES = 64

REMOTE_NOUNS: dict[str, tuple[ServiceName, ...]] = {
    "text": ("text",), "faces": GROUPS["faces"], "images": GROUPS["images"], "vectors": ("similarity",),
    "collections": ("collections",),
}  # fmt: skip
"""The services of a noun whose rows can be run by other workers; `TEXT_URL` and its kin say by which. Galleries are
collections: they are where the collections are."""


class ServiceUrl(NamedTuple):
    """Where a worker's gRPC edge is."""

    host: str
    port: int
    is_tls: bool

    @property
    def target(self) -> str:
        """Host and port as gRPC names them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def service_urls(raw: str) -> tuple[ServiceUrl, ...]:
    """Addresses by comma, each `grpc://host:port` or `grpcs://host:port`. One that is named twice has two connections."""
    found = tuple(_service_url(part.strip()) for part in raw.split(",") if part.strip())
    if len(found) > MAX_ADDRESSES:
        raise ValueError(f"it names {len(found)} addresses, {MAX_ADDRESSES} are allowed")
    return found


def _service_url(raw: str) -> ServiceUrl:
    if "@" in raw:
        raise ValueError("one of them has a user or password; the credential goes into SERVICE_KEY")
    parts = urlsplit(raw)
    if parts.scheme not in ("grpc", "grpcs") or not parts.hostname:
        raise ValueError(f"{raw!r} is not grpc://host:port or grpcs://host:port")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError(f"{raw!r} has a path; only a host and a port are used")
    if not parts.port:  # ValueError for what is no port
        raise ValueError(f"{raw!r} lacks the port, the other worker's GRPC_PORT")
    return ServiceUrl(parts.hostname, parts.port, parts.scheme == "grpcs")
