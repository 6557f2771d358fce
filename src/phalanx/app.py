"""The composition root: settings to stores, engines, services, the table. Nothing else constructs an adapter."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import structlog

from phalanx.edges.http.app import DIALECTS, HttpEdge
from phalanx.edges.http.codec import encode_json
from phalanx.edges.http.openapi import openapi
from phalanx.edges.http.reference import reference_page
from phalanx.edges.http.system import Documents, SystemEndpoints
from phalanx.engines.runner import BatchFacts
from phalanx.engines.text.load import EngineChoice
from phalanx.errors import PhalanxError
from phalanx.ids import Uuid7
from phalanx.models.catalogue import load_catalogue
from phalanx.models.store import ModelStore
from phalanx.operations import Entrance, Operation, Services, table
from phalanx.ports import Clock, QuotaStore, UsageLog
from phalanx.services.gate import Gate
from phalanx.services.health import HealthService
from phalanx.services.keyring import Keyring
from phalanx.services.keys import KeyService
from phalanx.services.loading import load_active, load_own, serve_text
from phalanx.services.models import ModelRegistry, ModelService, ServedText
from phalanx.services.periods import month_of, month_start
from phalanx.services.text import TextService
from phalanx.services.tiers import tier_policies
from phalanx.settings import Settings
from phalanx.stores.memory.cache import MemoryVectorCache
from phalanx.stores.memory.clock import SystemClock
from phalanx.stores.memory.idempotency import MemoryIdempotencyStore
from phalanx.stores.memory.limiter import MemoryRateLimiter
from phalanx.stores.memory.quota import MemoryQuotaStore
from phalanx.stores.sql.database import migrate, open_database
from phalanx.stores.sql.journal import JournaledUsageLog
from phalanx.stores.sql.keys import SqlKeyStore
from phalanx.stores.sql.usage import SqlUsageLog
from phalanx.telemetry import Log, Metrics, RequestLog

TOKEN_BUDGET = 1024
MAX_WAITING_TOKENS = 128 * 1024


@dataclass(frozen=True, slots=True)
class App:
    """A worker's parts, open. `load_models` is apart, since probes are answered while models load."""

    settings: Settings
    entrance: Entrance
    operations: dict[str, Operation]
    registry: ModelRegistry
    health: HealthService
    metrics: Metrics
    log: Log
    usage: UsageLog
    closing: AsyncExitStack

    @property
    def services(self) -> Services:
        """What the rows run on."""
        return self.entrance.services

    async def load_models(self) -> None:
        """Load the text model, warm it, and let the canary sing. What is missing is said by /readyz and by each call."""
        try:
            served = await asyncio.to_thread(_load_text, self.settings, self.metrics)
        except PhalanxError as error:
            self.registry.mark_missing(self.registry.default, error.detail)
            self.log.error("model missing", model=self.registry.default, reason=error.detail)
            return
        served.runner.start()
        self.closing.push_async_callback(served.runner.stop, self.settings.drain_timeout_secs)
        self.registry.add(served, instead_of=self.registry.default)
        await self.health.check(served)
        backend, spec = served.model.backend, served.model.spec
        labels = (spec.name, spec.version, backend.device, backend.precision)
        self.metrics.gauge("phalanx_model_info", *labels).set(1)
        queue = self.metrics.gauge("phalanx_queue_tokens", spec.name)
        queue.set_function(lambda: served.runner.stats().waiting_tokens)
        self.log.info(
            "model ready", model=spec.name, version=spec.version, device=backend.device_name,
            engine=backend.name, precision=backend.precision, threads=backend.threads,
        )  # fmt: skip


@asynccontextmanager
async def build(settings: Settings, *, log: Log | None = None) -> AsyncIterator[App]:
    """Open a worker's parts, and close them in reverse. Migrates the database first."""
    log = log or structlog.get_logger("phalanx")
    metrics = Metrics()
    clock = SystemClock()
    new_id = Uuid7(clock)
    async with AsyncExitStack() as closing:
        await asyncio.to_thread(migrate, settings.database)
        database = open_database(settings.database)
        closing.push_async_callback(database.close)
        keys = SqlKeyStore(database)
        usage = JournaledUsageLog(SqlUsageLog(database), settings.data_dir / "usage", log=log)
        await usage.open()
        closing.push_async_callback(usage.close)
        quotas = MemoryQuotaStore(clock)
        await _count_month(quotas, usage, clock)
        keyring = Keyring(keys, clock)
        closing.push_async_callback(_end, asyncio.create_task(keyring.watch(), name="keyring"))
        gate = Gate(
            keyring=keyring, limiter=MemoryRateLimiter(clock), quotas=quotas, usage=usage,
            tiers=tier_policies(settings), clock=clock, new_id=new_id, key_prefix=settings.api_key_prefix,
            anonymous_scopes=settings.anonymous_scopes, open_to_all=settings.auth == "off",
            request_timeout_s=settings.request_timeout_ms / 1e3, max_concurrent=settings.max_concurrent_requests,
            max_streams=settings.max_streams,
        )  # fmt: skip
        registry = _registry(settings)
        health = HealthService(
            registry, {"database": keys.ping}, clock=clock, git_sha=settings.git_sha,
            permits=lambda: (gate.calls.taken, gate.streams.taken),
        )  # fmt: skip
        services = Services(
            text=_text_service(settings, registry, metrics),
            models=ModelService(registry, is_ready=health.is_model_ready),
            keys=KeyService(keys, clock=clock, prefix=settings.api_key_prefix, new_id=new_id),
            health=health,
        )
        metrics.gauge("phalanx_calls_in_flight").set_function(lambda: gate.calls.taken + gate.streams.taken)
        entrance = Entrance(gate, services, MemoryIdempotencyStore(clock))
        yield App(settings, entrance, table(), registry, health, metrics, log, usage, closing)


def _registry(settings: Settings) -> ModelRegistry:
    """Return a registry that waits for the model, under all names by which callers may ask for it meanwhile."""
    entry = None if settings.model_path else load_catalogue().find(settings.model_name)
    name = settings.model_path.name if settings.model_path else entry.name if entry else settings.model_name
    registry = ModelRegistry(name)
    registry.mark_missing(name, "it is loading", tuple(entry.aliases) if entry else ())
    return registry


def _load_text(settings: Settings, metrics: Metrics) -> ServedText:
    choice = EngineChoice(engine=settings.engine, device=settings.device, precision=settings.precision)
    if settings.model_path is not None:
        cache = settings.data_dir / "converted"
        loaded = load_own(settings.model_path, choice, cache=cache, max_tokens=settings.max_tokens)
    else:
        loaded = load_active(open_store(settings), settings.model_name, choice, max_tokens=settings.max_tokens)
    return serve_text(
        loaded, token_budget=TOKEN_BUDGET, max_waiting_tokens=MAX_WAITING_TOKENS,
        on_batch=_batch_metrics(metrics, loaded.model.spec.name),
    )  # fmt: skip


def _batch_metrics(metrics: Metrics, model: str) -> Callable[[BatchFacts], None]:
    """Return what notes a batch; it runs on the engine thread, so the children are made beforehand."""
    queue, engine = (
        metrics.histogram("phalanx_queue_seconds", model),
        metrics.histogram("phalanx_engine_seconds", model),
    )
    size, padding = metrics.histogram("phalanx_batch_tokens", model), metrics.counter("phalanx_padding_tokens", model)
    tokens = metrics.counter("phalanx_tokens", model)

    def note(facts: BatchFacts) -> None:
        for seconds in facts.queue_s:
            queue.observe(seconds)
        engine.observe(facts.engine_s)
        size.observe(facts.padded_tokens)
        padding.inc(facts.padded_tokens - facts.tokens)
        tokens.inc(facts.tokens)

    return note


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _count_month(quotas: QuotaStore, usage: UsageLog, clock: Clock) -> None:
    """Fill the month's counters from the ledger, since they live in memory."""
    period = month_of(clock.now())
    for organisation, requests in (await usage.requests_by_organisation(since=month_start(period))).items():
        await quotas.reserve(organisation, period, requests, limit=None)


def open_store(settings: Settings) -> ModelStore:
    """Return the model store that the settings name."""
    return ModelStore(settings.models_dir, catalogue=load_catalogue())


def _text_service(settings: Settings, registry: ModelRegistry, metrics: Metrics) -> TextService:
    hits, misses = (metrics.counter("phalanx_cache_lookups", outcome) for outcome in ("hit", "miss"))

    def count(found: int, missing: int) -> None:
        if found:
            hits.inc(found)
        if missing:
            misses.inc(missing)

    cache = MemoryVectorCache(settings.l1_cache_size)
    return TextService(registry, cache, share_cache=settings.cache_scope == "shared", on_lookup=count)


def http_edge(
    app: App, *, requests: RequestLog | None = None, is_loop_turning: Callable[[], bool] = lambda: True
) -> HttpEdge:
    """Return the HTTP edge of a worker's parts."""
    settings = app.settings

    @functools.cache
    def documents() -> Documents:
        document = openapi(app.operations, DIALECTS, title=settings.app_name, public_url=settings.app_public_url)
        return Documents(encode_json(document), reference_page(document))

    system = SystemEndpoints(
        app.health, app.registry, documents=documents, is_loop_turning=is_loop_turning,
        max_concurrent=settings.max_concurrent_requests, max_batch_tokens=TOKEN_BUDGET,
    )  # fmt: skip
    return HttpEdge(
        app.entrance, app.operations, system=system.endpoints(), metrics=app.metrics, log=app.log, requests=requests,
        max_body_bytes=settings.max_request_size_bytes, request_id_header=settings.request_id_header,
        on_finished=app.health.latencies.add,
    )  # fmt: skip
