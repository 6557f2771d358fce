"""The seams of Phalanx as Protocols. Each says what happens when what stands behind it is down.

Every port has an adapter that needs no server (in `stores/memory`, or over SQLite) and one for a server; `tests/ports` runs
one suite over both.
"""

from __future__ import annotations

from phalanx.ports.caches import Cache, CachedVector, IdempotencyStore, ResultCache, VectorCache
from phalanx.ports.callers import (
    AuditLog,
    Broadcast,
    ChangeFeed,
    Changes,
    KeyStore,
    OrganisationStore,
    SessionStore,
    UserStore,
)
from phalanx.ports.clock import Clock
from phalanx.ports.engines import Engine, Finished, Prepared, Submission
from phalanx.ports.limits import (
    NO_LIMIT,
    Allowance,
    Grant,
    Limiter,
    QuotaDecision,
    RateDecision,
    RatePolicy,
    SharedLimiter,
    Workers,
)
from phalanx.ports.rollcall import Rollcall
from phalanx.ports.usage import Books, SumKey, UsageLedger, UsageLog, UsageQuery
from phalanx.ports.vectors import CollectionRecord, CollectionStore, Distance, Hit, Point, VectorStore

__all__ = [
    "NO_LIMIT",
    "Allowance",
    "AuditLog",
    "Books",
    "Broadcast",
    "Cache",
    "CachedVector",
    "ChangeFeed",
    "Changes",
    "Clock",
    "CollectionRecord",
    "CollectionStore",
    "Distance",
    "Engine",
    "Finished",
    "Grant",
    "Hit",
    "IdempotencyStore",
    "KeyStore",
    "Limiter",
    "OrganisationStore",
    "Point",
    "Prepared",
    "QuotaDecision",
    "RateDecision",
    "RatePolicy",
    "ResultCache",
    "Rollcall",
    "SessionStore",
    "SharedLimiter",
    "Submission",
    "SumKey",
    "UsageLedger",
    "UsageLog",
    "UsageQuery",
    "UserStore",
    "VectorCache",
    "VectorStore",
    "Workers",
]
