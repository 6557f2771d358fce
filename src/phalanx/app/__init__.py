"""The composition root: settings to a worker's parts. Nothing outside this package constructs an adapter."""

from __future__ import annotations

from phalanx.app.models import MAX_WAITING_TOKENS, TOKEN_BUDGET, open_store
from phalanx.app.queue import own_worker, queue_workers
from phalanx.app.stores import ONE_PROCESS, look_at_qdrant, look_at_redis
from phalanx.app.worker import App, build, http_edge

__all__ = [
    "MAX_WAITING_TOKENS",
    "ONE_PROCESS",
    "TOKEN_BUDGET",
    "App",
    "build",
    "http_edge",
    "look_at_qdrant",
    "look_at_redis",
    "open_store",
    "own_worker",
    "queue_workers",
]
