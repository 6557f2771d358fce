"""How long a computed call may take, by what it asks for."""

from __future__ import annotations

from typing import Any, Final

from phalanx.contract.images import MAX_IMAGES
from phalanx.contract.text import MAX_TEXTS

TEXTS: Final = 256
IMAGES: Final = 4
"""So many of one call are computed in one REQUEST_TIMEOUT, though each is as large as may be and the worker has others: 256 texts
of 256 tokens take 2 s of 2 cores, 4 images are worked on at once."""

MOST_TIMES: Final = max(MAX_TEXTS // TEXTS, MAX_IMAGES // IMAGES)
"""How many times REQUEST_TIMEOUT the largest call has."""


def times(request: Any) -> int:
    """Return how many times REQUEST_TIMEOUT a request has, by its texts and images: 1 to `MOST_TIMES`."""
    texts, images = (len(getattr(request, name, None) or ()) for name in ("texts", "images"))
    return max(1, min(MOST_TIMES, max(-(-texts // TEXTS), -(-images // IMAGES))))
