"""The stores of a worker: embedded in this process, or on the servers that the settings name."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from phalanx.app.closing import Closing
from phalanx.operations.patience import MOST_TIMES
from phalanx.ports import (
    AuditLog,
    Broadcast,
    CachedVector,
    ChangeFeed,
    Clock,
    CollectionStore,
    IdempotencyStore,
    KeyStore,
    Limiter,
    OrganisationStore,
    ResultCache,
    Rollcall,
    SessionStore,
    UsageLedger,
    UsageLog,
    UserStore,
    VectorCache,
    VectorStore,
)
from phalanx.ports.jobs import JobQueue, OwnJobs
from phalanx.ports.webhooks import Outbox
from phalanx.services.caches import TieredCache
from phalanx.services.callers.sealing import SealedAnswers
from phalanx.services.jobs.webhooks import MAX_NOTICES
from phalanx.services.metering.limits import SharedLimits
from phalanx.services.metering.periods import month_of, month_start
from phalanx.services.serving.health import Dependency
from phalanx.settings import Secret, Settings
from phalanx.stores.files.journal import FileJournal
from phalanx.stores.journaled import JournaledUsageLog
from phalanx.stores.memory.broadcast import MemoryBroadcast
from phalanx.stores.memory.cache import MemoryCache, size_of
from phalanx.stores.memory.idempotency import MemoryIdempotencyStore
from phalanx.stores.memory.limiter import MemoryLimiter
from phalanx.stores.memory.rollcall import MemoryRollcall
from phalanx.stores.qdrant.edge import EdgeVectorStore
from phalanx.stores.qdrant.opening import open_qdrant
from phalanx.stores.qdrant.refused import RefusedVectorStore
from phalanx.stores.redis.broadcast import RedisBroadcast
from phalanx.stores.redis.cache import RESULTS, VECTORS, RedisCache
from phalanx.stores.redis.client import Redis, eviction_warning, open_redis, redis_failures
from phalanx.stores.redis.idempotency import RedisIdempotencyStore
from phalanx.stores.redis.jobs import BullJobs
from phalanx.stores.redis.journal import RedisJournal
from phalanx.stores.redis.limiter import RedisLimiter
from phalanx.stores.redis.rollcall import RedisRollcall
from phalanx.stores.redis.webhooks import RedisOutbox
from phalanx.stores.redis.workers import RedisWorkers
from phalanx.stores.sql.audit import SqlAuditLog
from phalanx.stores.sql.changes import SqlChangeFeed
from phalanx.stores.sql.collections import SqlCollectionStore
from phalanx.stores.sql.database import Database, migrate, open_database
from phalanx.stores.sql.jobs import SqlJobs
from phalanx.stores.sql.keys import SqlKeyStore
from phalanx.stores.sql.organisations import SqlOrganisationStore
from phalanx.stores.sql.sessions import SqlSessionStore
from phalanx.stores.sql.usage import SqlUsageLog
from phalanx.stores.sql.users import SqlUserStore
from phalanx.stores.sql.webhooks import SqlOutbox
from phalanx.telemetry import Log, Metrics

CLAIM_MARGIN_S = 30.0
"""How much longer than a call may take the claim on its Idempotency-Key lasts, in seconds."""
GRACE_S = 300.0
"""For how long a worker serves without its database: as long as keys in use do."""

ONE_PROCESS = (
    "collections need QDRANT_URL here: without it they are in Qdrant Edge, which one process may open, "
    "and this worker is set up to be one of several"
)

OldestOpen = Callable[[], float | None]


@dataclass(frozen=True, slots=True)
class Stores:
    """A worker's state, open. `dependencies` are what /health asks; `is_shared` says that other workers are told news."""

    keys: KeyStore
    users: UserStore
    organisations: OrganisationStore
    sessions: SessionStore
    changes: ChangeFeed
    audit: AuditLog
    usage: UsageLedger
    limiter: Limiter
    broadcast: Broadcast
    cache: VectorCache
    results: ResultCache
    collections: CollectionStore
    idempotency: IdempotencyStore
    vectors: VectorStore
    rollcall: Rollcall
    jobs: JobQueue
    outbox: Outbox
    own_jobs: OwnJobs | None
    queues: tuple[str, ...]
    dependencies: dict[str, Dependency]
    is_shared: bool


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every part of a worker is opened with."""

    settings: Settings
    clock: Clock
    new_id: Callable[[], str]
    log: Log
    metrics: Metrics
    closing: Closing
    is_serving: bool


async def open_stores(around: Surroundings, secret: Secret, oldest_open: OldestOpen) -> Stores:
    """Open what the settings name, and have it closed in reverse. Migrates the database first. Raises `Unavailable`.

    A command that does not serve takes part in no limits: it is no worker among which they are shared out.
    """
    settings, closing = around.settings, around.closing
    await asyncio.to_thread(migrate, settings.database)
    database = _open_database(settings)
    closing.close_with(database.close)
    redis = None if settings.redis_url is None else _open_redis(settings.redis_url, closing)
    usage = await _open_usage(around, database, redis, oldest_open)
    cache, results = _open_caches(around)
    dependencies = {"database": Dependency(database.ping, GRACE_S)}
    vectors = await _open_vectors(around)
    if settings.qdrant_url is not None:
        # Collections answer 503 without it; everything else serves.
        dependencies["qdrant"] = Dependency(vectors.ping, None)
    if redis is not None:
        dependencies["redis"] = Dependency(_ping(redis), None)
    own_jobs = SqlJobs(database) if settings.jobs_url is None else None
    outbox: Outbox = SqlOutbox(database, max_notices=MAX_NOTICES)
    if settings.jobs_url is not None:
        outbox = RedisOutbox(_open_redis(settings.jobs_url, closing), max_notices=MAX_NOTICES)
    return Stores(
        jobs=own_jobs or await _open_jobs(around), own_jobs=own_jobs, outbox=outbox,
        queues=tuple(spec.name for spec in settings.job_queues),
        rollcall=MemoryRollcall(around.clock) if redis is None else RedisRollcall(redis),
        keys=SqlKeyStore(database), users=SqlUserStore(database), organisations=SqlOrganisationStore(database),
        sessions=SqlSessionStore(database), changes=SqlChangeFeed(database), audit=SqlAuditLog(database), usage=usage,
        limiter=await _open_limiter(around, redis, usage),
        broadcast=MemoryBroadcast() if redis is None else RedisBroadcast(redis, log=around.log),
        cache=cache, results=results, idempotency=_open_idempotency(around, redis, secret),
        collections=SqlCollectionStore(database), vectors=vectors, dependencies=dependencies,
        is_shared=redis is not None,
    )  # fmt: skip


async def look_at_qdrant(url: str, api_key: str) -> None:
    """Return when the Qdrant server that a setting names answers and takes the key. Raises `Unavailable`."""
    server = await open_qdrant(url, api_key)
    try:
        await server.places()
    finally:
        await server.close()


async def look_at_redis(url: str, name: str) -> str | None:
    """Return what is wrong with how the Redis that a setting names is set up, or None. Raises `Unavailable`."""
    redis = open_redis(url)
    try:
        return await eviction_warning(redis, name)
    finally:
        await redis.aclose()


def _open_database(settings: Settings) -> Database:
    if settings.database.startswith("sqlite"):
        return open_database(settings.database)
    least, most = settings.database_min_connections, settings.database_max_connections
    return open_database(settings.database, min_connections=least, max_connections=most)


def _open_redis(url: str, closing: Closing) -> Redis:
    redis = open_redis(url)
    closing.close_with(redis.aclose)
    return redis


def _ping(redis: Redis) -> Callable[[], Awaitable[None]]:
    async def ping() -> None:
        with redis_failures():
            await redis.ping()

    return ping


async def _open_usage(
    around: Surroundings, database: Database, redis: Redis | None, oldest_open: OldestOpen
) -> JournaledUsageLog:
    settings, log = around.settings, around.log
    journal: FileJournal | RedisJournal
    if settings.usage_journal == "redis" and redis is not None:
        journal = RedisJournal(redis, log=log)
    else:
        journal = file = FileJournal(settings.data_dir / "usage", log=log)
        around.metrics.gauge("phalanx_usage_waiting_bytes").set_function(lambda: file.waiting_bytes)
    usage = JournaledUsageLog(SqlUsageLog(database), journal, log=log, oldest_open=oldest_open)
    await usage.open()
    around.closing.close_with(usage.close)
    return usage


async def _open_limiter(around: Surroundings, redis: Redis | None, usage: UsageLog) -> Limiter:
    clock, log = around.clock, around.log
    if redis is None:
        limiter = MemoryLimiter(clock)
        period = month_of(clock.now())
        await limiter.fill(period, await usage.requests_by_organisation(since=month_start(period)))
        return limiter
    shared = RedisLimiter(redis, clock)
    if not around.is_serving:
        around.closing.close_with(shared.close)
        return shared
    limits = SharedLimits(
        shared, MemoryLimiter(clock), RedisWorkers(redis), usage, clock, log=log,
        worker_id=f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}", least_workers=around.settings.workers,
    )  # fmt: skip
    await limits.start()
    around.closing.close_with(limits.close)
    around.metrics.gauge("phalanx_limits_degraded").set_function(lambda: float(limits.degraded))
    return limits


def _open_caches(around: Surroundings) -> tuple[VectorCache, ResultCache]:
    settings, log, ttl_s = around.settings, around.log, around.settings.l2_cache_ttl_secs
    vectors: MemoryCache[CachedVector] = MemoryCache(settings.l1_cache_size)
    results = MemoryCache(settings.result_cache_bytes, weigh=size_of)
    url = settings.redis_cache_url or settings.redis_url
    if url is None or not ttl_s or not around.is_serving:
        return vectors, results
    redis = _open_redis(url, around.closing)
    more_vectors = RedisCache(redis, VECTORS, ttl_s=ttl_s, log=log)
    more_results = RedisCache(redis, RESULTS, ttl_s=ttl_s, log=log)
    for one in (more_vectors, more_results):
        around.closing.close_with(one.close)
    tiers = {number: around.metrics.counter("phalanx_cache_hits", str(number)) for number in (1, 2)}

    def count(tier: int, hits: int) -> None:
        tiers[tier].inc(hits)

    return TieredCache(vectors, more_vectors, on_hits=count), TieredCache(results, more_results, on_hits=count)


def _open_idempotency(around: Surroundings, redis: Redis | None, secret: Secret) -> IdempotencyStore:
    if redis is None:
        return MemoryIdempotencyStore(around.clock)
    lease_s = MOST_TIMES * around.settings.request_timeout_ms / 1e3 + CLAIM_MARGIN_S
    store = RedisIdempotencyStore(redis, log=around.log, lease_s=lease_s)
    around.closing.close_with(store.close)
    return SealedAnswers(store, secret)


async def _open_jobs(around: Surroundings) -> BullJobs:
    assert around.settings.jobs_url is not None
    queued = BullJobs(around.settings.jobs_url, around.settings.job_queues)
    around.closing.close_with(queued.close)
    return queued


async def _open_vectors(around: Surroundings) -> VectorStore:
    """Return where vectors are. Edge starts nothing, and takes nothing of memory, until the first call."""
    settings = around.settings
    if settings.qdrant_url is not None:
        server = await open_qdrant(settings.qdrant_url, settings.qdrant_api_key)
        around.closing.close_with(server.close)
        return server
    if settings.is_shared or settings.workers > 1:
        return RefusedVectorStore(ONE_PROCESS)
    store = EdgeVectorStore(settings.data_dir / "vectors", log=around.log)
    around.closing.close_with(store.close)
    return store
