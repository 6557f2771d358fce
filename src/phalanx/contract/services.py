"""The services of a worker: what it may have all of, or one alone."""

from __future__ import annotations

from typing import Literal, get_args

ServiceName = Literal["text", "face-detection", "face-embedding", "image-processing", "similarity", "collections"]

ALL_SERVICES: tuple[ServiceName, ...] = get_args(ServiceName)

GROUPS: dict[str, tuple[ServiceName, ...]] = {
    "all": ALL_SERVICES,
    "faces": ("face-detection", "face-embedding"),
    "images": ("image-processing",),
    "vectors": ("similarity", "collections"),
}
"""Names for several services at once."""

PORTS: dict[str, int] = {
    "face-detection": 8001, "face-embedding": 8002, "image-processing": 8003, "similarity": 8004,
}  # fmt: skip
"""Where a service listens that is served alone, unless it is told otherwise."""
